import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from fima.checkpoints.classifier import LoadedClassifier, load_classifier
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.data.datasets import list_videos
from fima.data.eval_clips import ClipSettings
from fima.evaluate.classifier_result import test_classifier as score_videos
from fima.evaluate.extract import Resources
from fima.use.predict import Prediction, predict
from tests.finetune_runs import after, changed
from tests.layout_files import write_lines
from tests.small_runs import make_videos
from tests.test_frame_folders import write_pictures
from tests.video_files import write_ucf101_avi

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    after(videos, folder, changed("test", crops=3))
    return folder


def test_probabilities_are_those_of_the_test(run: Path, videos: Path) -> None:
    cpu = torch.device("cpu")
    classifier = load_classifier(RunFolder(run).last, device=cpu)
    listed = list_videos(videos, "all")
    expected = score_videos(
        classifier.model,
        listed,
        ClipSettings(frames=4, crop_size=32, num_clips=2, num_crops=3),
        Resources(batch_size=4),
        log_softmax=False,
    )
    found = list(predict(classifier, [video.path for video in listed.videos], Resources(), per_second=False))
    assert all(isinstance(one, Prediction) for one in found)
    got = torch.stack([one.probabilities for one in found if isinstance(one, Prediction)])
    torch.testing.assert_close(got, expected.scores.softmax(dim=1), atol=1e-6, rtol=0)


def test_the_command_names_classes(run: Path, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    files = sorted(map(str, videos.rglob("*.avi")))[:2]
    argv = ["predict", str(run), files[1], files[0], "--device", "cpu"]
    assert main([*argv, "--json", "-o", str(tmp_path / "out.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in found] == [files[1], files[0]]
    assert {score["label"] for score in found[0]["predictions"]} == {"a", "b"}
    assert sum(score["score"] for score in found[0]["predictions"]) == pytest.approx(1, abs=1e-5)
    assert found[0]["predictions"][0]["score"] >= 0.5
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert main([*argv, "--top", "1", "-o", str(tmp_path / "out.csv")]) == 0
    assert capsys.readouterr().out.startswith(f"{files[1]}: ")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["rank"]) for row in rows] == [(files[1], "1"), (files[0], "1")]
    assert rows[0]["label"] == found[0]["predictions"][0]["label"]


def test_an_interrupt_keeps_what_is_there(
    run: Path, videos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(map(str, videos.rglob("*.avi")))[:3]
    argv = ["predict", str(run), *files, "--device", "cpu", "--json", "-o", str(tmp_path / "out.json")]

    def interrupted(*given: Any, **settings: Any) -> Iterator[Any]:  # noqa: ANN401
        yield from islice(predict(*given, **settings), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("fima.use.predict.predict", interrupted)
    assert main(argv) == 130
    captured = capsys.readouterr()
    assert [one["path"] for one in json.loads(captured.out)] == files[:2]
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(captured.out)
    assert "2 of 3 videos" in captured.err


def test_each_second(run: Path, tmp_path: Path, capsys: Capture) -> None:
    make_videos(tmp_path / "videos", num_per_class=1)
    assert main(["predict", str(run), str(tmp_path / "videos"), "--per", "second", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(" 0.0-0.5 s: " in line for line in lines)


def test_a_second_is_that_second_where_training_clips_covered_a_share_of_the_video(run: Path, tmp_path: Path) -> None:
    trained = load_classifier(RunFolder(run).last, device=torch.device("cpu"))
    config = trained.checkpoint.config
    spread = replace(config, data=replace(config.data, span=(0.85, 0.85)))
    classifier = replace(trained, checkpoint=replace(trained.checkpoint, config=spread))
    video = write_ucf101_avi(tmp_path / "long.avi", num_frames=100)

    def seconds(chosen: LoadedClassifier) -> torch.Tensor:
        found = predict(chosen, [video], Resources(), per_second=True)
        return torch.stack([one.probabilities for one in found if isinstance(one, Prediction)])

    assert torch.equal(seconds(classifier), seconds(trained))


def test_seconds_of_pictures_and_a_table(run: Path, tmp_path: Path, capsys: Capture) -> None:
    write_pictures(tmp_path / "clips" / "one", *range(12))
    table = write_lines(tmp_path / "clips" / "list.csv", "path", "one")
    argv = ["predict", str(run), str(table), "--per", "second", "--device", "cpu"]
    assert main(argv) == 2
    assert "has no frame rate, so it has no seconds; give --frame-rate" in capsys.readouterr().err
    assert main([*argv, "--frame-rate", "8"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["0.0-1.0", "1.0-1.5"]


def test_refusals(run: Path, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    good = str(next(videos.rglob("*.avi")))
    for argv, message in (
        (["predict", str(run), str(bad)], "none of 1 videos can be decoded"),
        (["predict", str(tmp_path), good], "holds neither a run"),
        (["predict", str(run), str(tmp_path / "none.avi")], "none.avi: no such file or folder"),
        (["predict", good, good], "no checkpoint"),
        (["predict", "small", good], "not a checkpoint of `fima finetune`; train one with `fima finetune CHECKPOINT"),
    ):
        assert main([*argv, "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(run), good, str(bad), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "bad.avi" in captured.err
    assert len(captured.out.splitlines()) == 1
