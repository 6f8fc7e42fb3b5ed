from pathlib import Path

import pytest

from tests.test_cli import Capture, refused


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["pretrain", "vidoes", "--out", "r"], "videos"),
        (["doctor", "vidoes/walk"], "videos"),
        (["evaluate", "runs/min", "videos"], "runs/mine"),
        (["evaluate", "runs/mine/checkpoints/last.pth", "videos"], "runs/mine/checkpoints/last.pt"),
        (["evaluate", "smal", "videos"], "small"),
        (["embed", "small", "videos/walk1.mp4", "-o", "e.npz"], "videos/walk.mp4"),
        (["report", "runs/mein", "-o", "r.html"], "runs/mine"),
        (["search", "embedding.npz", "videos/walk.mp4"], "embeddings.npz"),
    ],
)
def test_of_a_mistyped_path_the_near_one_is_named(
    words: list[str], meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name in ("videos/walk.mp4", "runs/mine/checkpoints/last.pt", "embeddings.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert f"; did you mean `{meant}`?" in refused(words, capsys)
    assert "did you mean" not in refused(["doctor", "/nowhere/at/all"], capsys)


@pytest.mark.parametrize("words", [["search", "runs/mine", "walk.mp4"], ["report", "walk.mp4", "-o", "r.html"]])
def test_a_folder_in_the_place_of_a_file_is_not_answered_with_itself(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "walk.mp4").touch()
    monkeypatch.chdir(tmp_path)
    assert f"`{words[1]}`" not in refused(words, capsys)
