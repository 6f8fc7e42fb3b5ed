"""Cross-validation over groups, and features that are chosen within the training videos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fima.cli import main
from fima.commands.labelled import say_aloud
from fima.data.datasets import Video, VideoList
from fima.data.eval_clips import ClipSettings
from fima.errors import ConfigError, DataError
from fima.evaluate import attentive, intervals, linear_protocols
from fima.evaluate.attentive import Training
from fima.evaluate.feature_protocols import measure
from fima.evaluate.features import Features, encode, encode_difference, encoder_source
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.linear import inner_folds
from fima.evaluate.measured import FeatureSets
from fima.evaluate.protocols import EvaluationConfig, SplitLists
from fima.evaluate.splits import _balanced, grouped_folds, list_folds
from tests.evaluation_data import write_state_dict
from tests.test_evaluation import CLIPS, CONFIG
from tests.video_files import write_video

PEOPLE = ("ann", "bob", "cleo", "dan")
CLASSES = ("dark", "bright")
COLUMNS = "path,label,fold,group"
LOW_SHOT = ("linear_low_shot/top1", "low_shot_curve/1/top1")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes by four people, as folders with a table; the people are in two folds."""
    root = tmp_path_factory.mktemp("people")
    rows = [COLUMNS]
    for number, person in enumerate(PEOPLE):
        for label, name in enumerate(CLASSES):
            for take in range(2):
                path = f"{name}/{person}_{take}.avi"
                frames = np.full((8, 32, 32, 3), 40 + 150 * label + 8 * number + take, dtype=np.uint8)
                write_video(root / path, frames)
                rows.append(f"{path},{name},{number % 2},{person}")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")
    return root


def people(videos: VideoList) -> set[str]:
    return {video.path.stem.split("_")[0] for video in videos.videos}


def test_a_column_of_folds_or_of_people(videos: Path) -> None:
    folds = list_folds(videos, EvaluationConfig(cross_validation="fold"))
    assert list(folds) == ["0", "1"]
    assert people(folds["0"].test) == {"ann", "cleo"} == people(folds["1"].train)
    assert len(folds["0"].groups) == 16
    alone = list_folds(videos, EvaluationConfig(cross_validation="group"))
    assert list(alone) == list(PEOPLE)
    for name, lists in alone.items():
        assert people(lists.test) == {name}
        assert people(lists.train) == {*PEOPLE} - {name}
        assert lists.train.warnings() == []


def test_folders_by_an_expression_keep_people_together(videos: Path) -> None:
    config = EvaluationConfig(folds=2, group_by=r"/([a-z]+)_")
    folds = list_folds(videos, config, dataset="folder")
    assert sum(len(lists.test.videos) for lists in folds.values()) == 16
    for lists in folds.values():
        assert people(lists.train).isdisjoint(people(lists.test))
        assert len(people(lists.test)) == 2
    assert folds == list_folds(videos, config, dataset="folder")
    with pytest.raises(DataError, match=r"no column group; give a table, or --folds N with --group-by"):
        list_folds(videos / "dark", EvaluationConfig(cross_validation="group"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cross_validation": "person"}, "has no column person; it has path, label, fold, group"),
        ({"cross_validation": "hole"}, "1 video without a value of hole, such as .*ann_0.avi"),
        ({"cross_validation": "same"}, "all videos are in one fold"),
        ({"cross_validation": "fold", "group_by": "torn"}, r"group x is in the folds 0 \(ann_0.avi\) and 1"),
        ({"folds": 9, "group_by": "group"}, r"4 groups \(ann, bob, cleo\) cannot make 9 folds"),
        ({"folds": 2, "group_by": "(ann"}, "neither a column nor a regular expression"),
        (
            {"folds": 2, "group_by": "ann"},
            "no column of a table, and .* not match .*bob_0.avi",
        ),
    ],
)
def test_bad_folds_are_refused_in_one_line(config: dict[str, Any], message: str, videos: Path, tmp_path: Path) -> None:
    rows = (videos / "videos.csv").read_text().split()
    more = [
        f"{row},{'x' if place else ''},x,{'x' if 'ann' in row or 'bob' in row else 'y'}"
        for place, row in enumerate(rows[1:])
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join([COLUMNS + ",hole,same,torn", *more]))
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        list_folds(videos, EvaluationConfig(**config), annotations=table)
    assert "\n" not in str(caught.value)


def test_a_class_that_a_fold_lacks_is_named(videos: Path, tmp_path: Path) -> None:
    rows = (videos / "videos.csv").read_text().split()
    table = tmp_path / "table.csv"
    table.write_text("\n".join(row for row in rows if not ("bright" in row and "ann" not in row)))
    folds = list_folds(videos, EvaluationConfig(cross_validation="group"), annotations=table)
    missed = "fold ann: no video to train on of bright, so its test videos of it are missed"
    left = "fold bob: no video to test of bright, so its figures are of the other classes (and 2 other folds like it)"
    assert [lists.train.warnings() for lists in folds.values()] == [[missed, left]] * 4


def test_a_column_is_found_however_its_name_is_written(videos: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text((videos / "videos.csv").read_text().replace("fold,group", "Fold,Person", 1))
    for group_by in ("Person", "person"):
        folds = list_folds(videos, EvaluationConfig(cross_validation="FOLD", group_by=group_by), annotations=table)
        assert set(folds["0"].groups.values()) == {*PEOPLE}


def means() -> FrozenEncoder:
    """What the commands below are given: the brightness of a clip, which is its class."""
    clips = ClipSettings(frames=4, crop_size=32)
    return FrozenEncoder(
        name="means", network=lambda pixels: pixels.mean(dim=(2, 3, 4)), clips=clips, mean=(0, 0, 0), std=(1, 1, 1)
    )


def evaluate_rows(videos: Path, rows: list[str], *protocols: str) -> tuple[int, dict[str, float]]:
    """Leave one person out of some rows of the table; return the exit code and the figures."""
    Path("table.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    words = ["evaluate", f"{__name__}:means", str(videos), "--annotations", "table.csv", "--cross-validation", "group"]
    words += ["--num-clips", "1", "--workers", "0", "--device", "cpu", "--out", "found.json"]
    code = main([*words, "--protocols", *protocols])
    return code, json.loads(Path("found.json").read_text())["figures"] if code == 0 else {}


def test_few_examples_are_refused_before_any_video_is_decoded_or_said_to_be_few(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = (videos / "videos.csv").read_text().split()[1:]
    one_each = [row for row in rows if "_0" in row and ("ann" in row or "bob" in row)]
    dark_and_bright = [row for row in rows if "bright/ann" in row or "dark/bob" in row]
    with monkeypatch.context() as nothing:
        nothing.setattr("fima.evaluate.extract.VideoReader", None)
        for protocol in ("linear", "attentive", "diagnosis"):
            assert evaluate_rows(videos, one_each, "knn", protocol)[0] == 2
            error = capsys.readouterr().err
            what = f"the {protocol} probe needs two classes and two videos of a class to train on"
            if protocol != "attentive":  # which needs maps first
                refused = f"fima: error: fold ann: {what}; give more videos, or --protocols without it"
                assert error.splitlines()[-1] == refused
        assert evaluate_rows(videos, dark_and_bright, "low_shot_curve")[0] == 2
        assert "fold ann: the low_shot_curve probe needs two classes to train on" in capsys.readouterr().err
    assert evaluate_rows(videos, one_each, "knn", "retrieval", "low_shot_curve")[1]["low_shot_curve/1/top1"] == 100
    assert "fewer than 2 training videos of every class; this size is left out" in capsys.readouterr().err
    # Only ann is seen in the dark: without her it is missed, 2 of 8 videos; the others are tested in the light alone.
    lacking = [row for row in rows if ("bright" in row or "ann" in row) and "bob" not in row]
    assert evaluate_rows(videos, lacking, "knn")[1]["knn/top1"] == 75
    warnings = capsys.readouterr().err
    assert "fold ann: no video to train on of dark, so its test videos of it are missed" in warnings
    tested = "fold cleo: no video to test of dark, so its figures are of the other classes (and 1 other fold like it)"
    assert tested in warnings


def test_people_on_both_sides_of_a_fixed_split_are_named(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds = list_folds(videos, EvaluationConfig(cross_validation="group"))
    together = SplitLists(train=folds["ann"].train, test=folds["ann"].train, groups=folds["ann"].groups)
    say_aloud([], {1: together}, EvaluationConfig())
    warnings = capsys.readouterr().err
    assert "split 1: 3 groups (bob, cleo, dan) with training and test videos" in warnings
    assert "--cross-validation group keeps each on one side" in warnings
    # Groups found in paths are no column of a table, without which --cross-validation is refused.
    say_aloud([], {1: together}, EvaluationConfig(group_by="(bob|cleo|dan)"))
    assert "--folds N keeps each on one side" in capsys.readouterr().err
    say_aloud([], folds, EvaluationConfig())
    assert "training and test videos" not in capsys.readouterr().err


def test_more_folds_than_videos_of_a_class_are_still_of_whole_groups() -> None:
    folds = grouped_folds(np.array([0, 1, 0, 1, 2, 2]), ["a", "a", "b", "b", "c", "d"], 4, seed=0)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3]
    assert folds[0] == folds[1]
    assert folds[2] == folds[3]


def test_there_are_as_many_folds_as_asked_for() -> None:
    """Spreading the classes evenly over five folds of these five people would leave one without any."""
    pairs = zip("abccdddddddeeeeee", [2, 0, 1, 1, *[0] * 13], strict=True)
    listed = [Video(Path(f"{person}{number}.avi"), label) for number, (person, label) in enumerate(pairs)]
    videos = VideoList(videos=listed, classes=["x", "y", "z"], root=Path(), split="all", layout="")
    fold_of = _balanced(videos, {video.path: video.path.name[0] for video in listed}, 5, 0)
    assert len({(fold, path.name[0]) for path, fold in fold_of.items()}) == len(set(fold_of.values())) == 5


def test_inner_folds_keep_groups_together() -> None:
    labels, groups = np.arange(40) % 4, [str(number // 8) for number in range(40)]
    folds = inner_folds(labels, groups, seed=0)
    assert {(fold, group) for fold, group in zip(folds.tolist(), groups, strict=True)} == {
        (int(folds[8 * group]), str(group)) for group in range(5)
    }
    assert len(set(folds.tolist())) == 5


class Channels(nn.Module):
    """The clip itself as a feature map."""

    def forward(self, clip: Tensor) -> Tensor:
        return clip


def test_features_against_loops() -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 6, 6), dtype=torch.uint8)
    source = encoder_source(Channels(), "x", ("avg", "both:max", "difference:grid"))
    assert source.parts == ("rgb:avg", "rgb:max", "difference:max", "difference:grid")
    pooled = source.pool(clips)[:, None]
    found = Features(pooled=pooled, labels=torch.zeros(2), paths=["a", "b"], undecodable=[], parts=source.parts)
    rgb, difference = encode(Channels(), clips), encode_difference(Channels(), clips)
    for video in range(2):
        for channel in range(3):
            own = rgb[video, channel]
            assert found.columns("avg")[video, 0, channel] == pytest.approx(float(own.mean()), abs=1e-6)
            assert found.columns("both:max")[video, 0, channel] == float(own.max())
            other = difference[video, channel]
            assert found.columns("both:max")[video, 0, 3 + channel] == float(other.max())
            cells = [
                float(other[2 * t : 2 * t + 2, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean())
                for t in range(2)
                for y in range(2)
                for x in range(2)
            ]
            grid = found.columns("difference:grid")[video, 0, 8 * channel : 8 * channel + 8]
            assert grid.tolist() == pytest.approx(cells, abs=1e-6)
    for wrong in ("mean", "blue:avg", "avg+max+grid"):
        with pytest.raises(ConfigError, match="--features"):
            EvaluationConfig(features=(wrong,))


@pytest.mark.parametrize("protocol", ["linear", "knn", "retrieval"])
def test_features_are_chosen_within_the_training_videos(protocol: str) -> None:
    """`max` tells the classes in training and none in the test, where `avg` does: `max` is chosen all the same."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    told = torch.nn.functional.one_hot(labels, 3) + 0.1 * torch.randn(60, 3, generator=generator)
    noise = torch.randn(60, 3, generator=generator)
    parts = ("rgb:avg", "rgb:max")

    def features(columns: list[Tensor], name: str) -> Features:
        paths = [f"{name}{place}" for place in range(60)]
        return Features(pooled=torch.cat(columns, 1)[:, None], labels=labels, paths=paths, undecodable=[], parts=parts)

    train = features([noise, told], "train")
    listed = [Video(path=Path(path), label=int(label)) for path, label in zip(train.paths, labels, strict=True)]
    sets = FeatureSets(
        train=train,
        tests={"test": features([told, noise], "test")},
        videos=VideoList(videos=listed, classes=["a", "b", "c"], root=Path(), split="train", layout="made up"),
        groups={video.path: str(place // 6) for place, video in enumerate(listed)},
    )
    found = measure(protocol, sets, CLIPS, replace(CONFIG, features=("avg", "max")))
    assert set(found) == {protocol, f"{protocol}@avg", f"{protocol}@max"}
    assert found[protocol].notes["features"] == "max"
    assert found[protocol].figures == found[f"{protocol}@max"].figures
    held_out = found[protocol].notes["held_out_accuracies_by_features"]
    assert held_out["max"] > 90 > 60 > held_out["avg"]


def test_few_groups_have_no_intervals_and_are_named(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row for row in (videos / "videos.csv").read_text().splitlines()[1:] if "dan" not in row]
    evaluate_rows(videos, rows, "knn")
    assert "the test videos are of the groups ann, bob, cleo: no intervals, which need 6" in capsys.readouterr().err
    assert json.loads(Path("found.json").read_text())["intervals"] == {}


def test_the_features_of_a_curve_are_chosen_on_two_videos_of_a_class(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, table = write_state_dict(tmp_path / "weights.pt"), tmp_path / "one_each.csv"
    rows = (videos / "videos.csv").read_text().split()[1:]
    table.write_text("\n".join([COLUMNS, *(row for row in rows if "_0" in row and ("ann" in row or "bob" in row))]))
    words = ["evaluate", checkpoint, videos, "--annotations", table, "--cross-validation", "group", "--frames", 4]
    words += ["--crop-size", 32, "--device", "cpu", "--protocols", "low_shot_curve", "--features", "avg", "max"]
    monkeypatch.setattr("fima.evaluate.extract.VideoReader", None)
    assert main([str(word) for word in words]) == 2
    assert "the low_shot_curve probe needs two classes and two videos of a class" in capsys.readouterr().err


def test_the_command_over_folds(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, out = write_state_dict(tmp_path / "weights.pt"), tmp_path / "result.json"
    words = ["evaluate", checkpoint, videos, "--frames", 4, "--crop-size", 32, "--num-clips", 1, "--workers", 0]
    words += ["--device", "cpu", "--out", out, "--protocols", "linear", "knn", "retrieval", "attentive"]
    words += ["low_shot_curve", "--low-shot", 6]
    monkeypatch.setattr(linear_protocols, "SHOTS", (1, 10))
    monkeypatch.setattr(intervals, "FEWEST_GROUPS", 4)
    monkeypatch.setattr(attentive, "EPOCHS", (1,))
    monkeypatch.setattr(attentive, "CANDIDATES", (Training(learning_rate=1e-3, weight_decay=0.01, epochs=1),))
    argv = [str(word) for word in words]
    assert main([*argv, "--cross-validation", "group", "--features", "avg", "both:avg"]) == 0
    result = json.loads(out.read_text())
    assert list(result["splits"]) == list(PEOPLE)
    assert result["unit"] == "fold"
    assert result["grouping"] == {"cross_validation": "group"}
    assert result["num_groups"] == 4
    for name in ("linear/top1", "knn@both:avg/top1", "retrieval/R@1", "attentive/top1", *LOW_SHOT):
        values = [figures[name] for figures in result["splits"].values()]
        assert result["figures"][name] == pytest.approx(np.mean(values))
        low, high = result["intervals"][name]
        assert low <= result["figures"][name] <= high
    assert result["data"]["fold ann"]["test"]["fold"] == "ann"
    assert len({result["data"][f"fold {name}"]["test"]["list_hash"] for name in PEOPLE}) == 4
    assert "whole groups" in result["protocols"]["linear"]["selection"]
    assert all({"version", "clips"} <= found.keys() for found in result["protocols"].values())
    # The pooled features and the cells.
    assert len(list((tmp_path / "evaluation" / "cache").iterdir())) == 2
    output, warnings = capsys.readouterr()
    assert "mean ± sd" in output
    assert "95 %" in output
    said = " ".join(output.split())
    drawn = "95 %: bootstrap over 4 groups of test videos"
    assert f"4 folds ({result['lists_hash']}) · 16 test videos · {drawn} · seed 0 · clips: frames 4" in said
    assert "low_shot_curve: fewer than 10 training videos of every class; this size is left out" in warnings
    first = out.read_bytes()
    assert main([*argv, "--cross-validation", "group", "--features", "avg", "both:avg"]) == 0
    assert out.read_bytes() == first
    other = tmp_path / "other.json"
    (videos / "fewer.csv").write_text("\n".join((videos / "videos.csv").read_text().split()[:-1]) + "\n")
    quick = [*argv[: argv.index("--protocols")], "--protocols", "knn", "--annotations", str(videos / "fewer.csv")]
    quick[quick.index(str(out))] = str(other)
    assert main([*quick, "--cross-validation", "group"]) == 0
    assert json.loads(other.read_text())["lists_hash"] != result["lists_hash"]
    for wrong, message in (
        (["--folds", "2", "--splits", "1"], "--folds makes its own"),
        (["--folds", "2", "--cross-validation", "fold"], "give one of the two"),
        (["--features", "avg", "avg"], "give each once"),
    ):
        assert main([*argv, *wrong]) == 2
        assert message in capsys.readouterr().err
