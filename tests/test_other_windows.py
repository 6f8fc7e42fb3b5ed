"""`--other-windows`: how clips are timed, chosen within the training videos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fima.cli import main
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.errors import ConfigError, DataError
from fima.evaluate.features import Features, side_by_side
from fima.evaluate.protocols import EvaluationConfig
from tests.evaluation_data import write_state_dict
from tests.video_files import write_video

CLASSES = ("dark", "middle", "bright")
WORDS = ["--frames", "4", "--crop-size", "32", "--num-clips", "2", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 24 frames that show their class in the middle only, where neither of two short clips looks."""
    root = tmp_path_factory.mktemp("middle")
    rows = ["path,label,group"]
    for label, name in enumerate(CLASSES):
        for number in range(6):
            frames = np.full((24, 32, 32, 3), 120 + number, dtype=np.uint8)
            frames[18:] += 20
            frames[6:18] = 40 + 80 * label + number
            write_video(root / name / f"{number}.avi", frames)
            rows.append(f"{name}/{number}.avi,{name},{number // 2}")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")
    return root


def evaluate(folder: Path, out: Path, *words: str, table: str = "videos.csv") -> dict[str, Any]:
    argv = ["evaluate", str(folder / "weights.pt"), str(folder / table), "--out", str(out), *WORDS, *words]
    assert main(argv) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_the_window_is_chosen_on_training_videos(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state_dict(videos / "weights.pt")
    protocols = ["--protocols", "linear", "knn", "same_video", "--cross-validation", "group"]
    usual = ["--stride", "1", *protocols]
    chosen = evaluate(videos, tmp_path / "chosen.json", *usual, "--other-windows", "span=0.9", "--low-shot", "6")
    said = capsys.readouterr().out
    assert "linear: chose avg@span=0.9 in 3 of 3 folds, on held-out training videos" in said
    assert "stride 1.0 or span=0.9 · protocols" in " ".join(said.split())
    alone = evaluate(videos, tmp_path / "whole.json", "--span", "0.9", *protocols, "--low-shot", "6")
    assert ": chose" not in capsys.readouterr().out
    first = evaluate(videos, tmp_path / "usual.json", *usual)
    for name in ("linear", "knn"):
        assert chosen["figures"][f"{name}@avg/top1"] == first["figures"][f"{name}/top1"] < 60
        assert chosen["figures"][f"{name}@avg@span=0.9/top1"] == alone["figures"][f"{name}/top1"] == 100
        assert chosen["figures"][f"{name}/top1"] == 100
        assert chosen["protocols"][name]["clips"]["span"] == 0.9
        assert chosen["protocols"][f"{name}@avg"]["clips"] == first["protocols"][name]["clips"]
    low_shot = "linear_low_shot"
    assert chosen["figures"][f"{low_shot}/top1"] == alone["figures"][f"{low_shot}/top1"]
    assert chosen["protocols"][low_shot]["clips"]["span"] == 0.9
    # It is about the clips as usual, and chooses nothing.
    for part in ("figures", "protocols"):
        names = [name for name in chosen[part] if name.startswith("same_video")]
        assert {name: chosen[part][name] for name in names} == {name: first[part][name] for name in names}
        assert names


def test_of_one_split_the_choice_is_said_without_folds(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state_dict(videos / "weights.pt")
    table = videos / "split.csv"
    rows = (videos / "videos.csv").read_text().split()
    table.write_text(
        "\n".join(["path,label,split", *(f"{row[:-1]}{'test' if row[-1] == '0' else 'train'}" for row in rows[1:])])
    )
    words = ["--stride", "1", "--protocols", "knn", "--features", "avg", "max"]
    evaluate(videos, tmp_path / "found.json", *words, "--other-windows", "span=0.9", "stride=2", table="split.csv")
    assert "knn: chose avg@span=0.9, on held-out training videos\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stride2"], "--other-windows stride2: write it as stride=2, fps=12.5 or span=0.5"),
        (["frames=8"], "--other-windows frames=8: write it as"),
        (["span=much"], "--other-windows span=much: write it as"),
        (["stride=-1"], "--stride -1: must be above 0"),
        (["stride=inf"], "--stride inf: must be above 0, and finite"),
        (["stride=2", "stride=2"], "--other-windows stride=2 stride=2: give each once"),
        (["stride=2", "--protocols", "diagnosis"], "--other-windows: only linear, knn, retrieval"),
    ],
)
def test_what_is_no_window_is_refused(
    words: list[str], message: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state_dict(videos / "weights.pt")
    argv = ["evaluate", str(videos / "weights.pt"), str(videos / "videos.csv"), *WORDS, "--cross-validation", "group"]
    assert main([*argv, "--other-windows", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"features": ("max",)}, {"other_windows": ("stride=2",)}])
def test_of_a_classifier_nothing_is_chosen_unless_a_protocol_on_features_is_named(given: dict[str, Any]) -> None:
    config = EvaluationConfig(**given)
    with pytest.raises(
        ConfigError, match="only linear, knn, retrieval, same_video, clustering and low_shot_curve look"
    ):
        config.chosen(ClipSettings(frames=4, crop_size=32), classifier=True)
    assert replace(config, protocols=("evaluate", "knn")).chosen(
        ClipSettings(frames=4, crop_size=32), classifier=True
    ) == ("evaluate", "knn")


def features(paths: str, base: float, left_out: str = "") -> Features:
    rows = torch.tensor([[[base + ord(path)]] for path in paths])
    skipped = [SkippedVideo(path=path, reason="broken", epoch=0, index=ord(path) - ord("a")) for path in left_out]
    labels = torch.tensor([ord(path) for path in paths])
    return Features(pooled=rows, labels=labels, paths=list(paths), undecodable=skipped)


def test_a_video_that_one_window_lacks_is_left_out_of_all() -> None:
    together = side_by_side({"": features("acd", 0, "b"), "stride=2": features("abd", 1000, "c")})
    assert together.paths == ["a", "d"]
    assert together.labels.tolist() == [97, 100]
    assert together.columns("avg").flatten().tolist() == [97, 100]
    assert together.columns("avg@stride=2").flatten().tolist() == [1097, 1100]
    assert [video.path for video in together.undecodable] == ["b", "c"]
    with pytest.raises(DataError, match="b: no video can be decoded in all of --other-windows"):
        side_by_side({"": features("a", 0, "b"), "stride=2": features("b", 0, "a")})


@pytest.mark.parametrize(
    ("encoder", "words", "is_named"),
    [
        ("small", ["linear"], True),
        ("small", ["linear", "--features", "avg", "grid"], False),
        ("small", ["knn"], False),
        ("weights.pt", ["linear"], False),
    ],
)
def test_of_small_the_choice_that_suits_few_videos_is_named(
    encoder: str,
    words: list[str],
    is_named: bool,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_state_dict(videos / "weights.pt")
    monkeypatch.chdir(videos)
    argv = ["evaluate", encoder, "videos.csv", "--out", str(tmp_path / "result.json"), *WORDS, "--cross-validation"]
    assert main([*argv, "group", "--protocols", *words]) == 0
    assert ("--features grid depths --other-windows stride=2" in capsys.readouterr().out) == is_named
