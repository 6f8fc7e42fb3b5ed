"""`fima compare`: differences of encoders on the same videos, with intervals over the same groups."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.table import Table

from fima.cli import main
from fima.commands.figures import comparison_table, figures_table, provenance
from fima.console import Console
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.evaluate import intervals
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.intervals import differences
from fima.evaluate.measured import Measured
from fima.evaluate.protocols import EvaluationResult, SplitName, chance_shown
from tests.video_files import write_video

Capture = pytest.CaptureFixture[str]
HITS, OTHER_HITS = [1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0], [0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0]
ONE, OTHER = f"{__name__}:bright", f"{__name__}:short"


def bright(frames: int = 4) -> FrozenEncoder:
    """What the commands below are given: the colours of a clip."""
    clips = ClipSettings(frames=frames, crop_size=32)
    name = "brightness" if frames == 4 else f"{frames} frames"
    return FrozenEncoder(
        name=name, network=lambda pixels: pixels.mean(dim=(2, 3, 4)), clips=clips, mean=(0, 0, 0), std=(1, 1, 1)
    )


def short() -> FrozenEncoder:
    """The same of clips of two frames."""
    return bright(2)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The videos that are opened, one after another."""
    found: list[Path] = []

    def open_one(path: Path) -> VideoReader:
        found.append(path)
        return VideoReader(path)

    monkeypatch.setattr("fima.evaluate.extract.VideoReader", open_one)
    return found


def of_people(hits: list[int], videos: list[int]) -> intervals.Tested:
    """What a protocol made of numbered videos, two of each person."""
    found = intervals.Tested()
    measured = Measured(figures={}, chance={}, settings={}, hits={"top1": torch.tensor(hits).bool()})
    paths = [f"{video}.avi" for video in videos]
    found.add(1, {"linear": measured}, paths, {Path(path): f"person {int(path[:-4]) // 2}" for path in paths})
    return found


def test_differences_against_a_loop() -> None:
    one = of_people(HITS, list(range(12)))
    # It could not be shown the first video, and lists the others in another order.
    other = of_people(OTHER_HITS, list(range(11, 0, -1)))
    (found,) = differences({"A": one, "B": other}, seed=3)
    first = dict(enumerate(HITS))
    second = dict(zip(range(11, 0, -1), OTHER_HITS, strict=True))
    people: dict[int, list[int]] = {}
    for video in range(1, 12):
        people.setdefault(video // 2, []).append(first[video] - second[video])
    assert found.num_videos == 11
    assert found.points == pytest.approx(100 * np.mean([value for values in people.values() for value in values]))
    names = sorted(people)
    draws = []
    for counts in np.random.default_rng(3).multinomial(6, [1 / 6] * 6, size=2000):
        drawn = [value for name, count in zip(names, counts, strict=True) for value in people[name] * count]
        draws.append(100 * sum(drawn) / len(drawn))
    assert found.interval == pytest.approx(tuple(np.percentile(draws, [0.24335, 99.75665])))


@pytest.mark.parametrize(("num_people", "expected"), [(2, {}), (5, {}), (6, {"linear/top1": (50.0, 50.0)})])
def test_a_few_people_have_no_interval(num_people: int, expected: dict[str, tuple[float, float]]) -> None:
    """Two people who are both recognised half of the time do not prove exactly 50 %."""
    assert of_people([1, 0] * num_people, list(range(2 * num_people))).intervals(seed=0) == expected


@pytest.mark.parametrize(("splits", "expected"), [((1, 2), 50.0), (("1", "2"), 25.0)])
def test_official_splits_count_the_same_and_folds_by_their_videos(
    splits: tuple[SplitName, ...], expected: float
) -> None:
    """As in the figures: six people are recognised in the 12 videos of one split, and not in the 36 of the other."""
    found, other = intervals.Tested(), intervals.Tested()
    for split, num_videos, hit in zip(splits, (12, 36), (True, False), strict=True):
        paths = [f"{split}-{number}.avi" for number in range(num_videos)]
        groups = {Path(path): f"person {number % 6}" for number, path in enumerate(paths)}
        for tested, is_hit in ((found, hit), (other, False)):
            hits = {"top1": torch.full((num_videos,), is_hit)}
            tested.add(split, {"linear": Measured(figures={}, chance={}, settings={}, hits=hits)}, paths, groups)
    assert found.intervals(seed=0)["linear/top1"] == pytest.approx((expected, expected))
    (difference,) = differences({"A": found, "B": other}, seed=0)
    assert difference.points == pytest.approx(expected)
    assert difference.interval == pytest.approx((expected, expected))


def test_what_is_said_of_a_difference() -> None:
    better, worse = of_people([1] * 12, list(range(12))), of_people([0] * 12, list(range(12)))
    (found,) = differences({"A": better, "B": worse}, seed=0)
    assert str(found) == "linear/top1: A is better than B by 100.0 points (95 %: 100.0 to 100.0)"
    (found,) = differences({"B": worse, "A": better}, seed=0)
    assert str(found) == "linear/top1: A is better than B by 100.0 points (95 %: 100.0 to 100.0)"
    (found,) = differences({"A": better, "C": better}, seed=0)
    assert str(found).startswith("linear/top1: no difference between A and C is shown: +0.0 points")
    alone = of_people([1, 0], [0, 1])
    (found,) = differences({"A": alone, "B": of_people([0, 0], [0, 1])}, seed=0)
    assert str(found) == "linear/top1: A and B differ by +50.0 points; no interval, with fewer than 6 groups"
    assert differences({"A": alone, "B": of_people([1], [5])}, seed=0) == []


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of brightness by six people, with a table."""
    root = tmp_path_factory.mktemp("people")
    rows = ["path,label,group"]
    for number in range(24):
        person, label = divmod(number // 2, 2)
        write_video(root / f"{number}.avi", np.full((8, 32, 32, 3), 40 + 150 * label + number, dtype=np.uint8))
        rows.append(f"{number}.avi,{('dark', 'bright')[label]},{person}")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")
    return root


def test_two_encoders_in_one_table(videos: Path, tmp_path: Path, capsys: Capture, opened: list[Path]) -> None:
    words = ["compare", f"A={ONE}", f"B={ONE}", "--on", str(videos)]
    words += ["--cross-validation", "group", "--protocols", "linear", "--num-clips", "2", "--workers", "0"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "c.json")]) == 0
    output = capsys.readouterr().out
    assert "linear/top1" in output
    assert "100.0 (100.0 to 100.0)" in output
    assert "A: brightness, 4 frames, stride 2, 32 px, mean 0 0 0, std 1 1 1" in output
    assert "no difference between A and B is shown: +0.0 points (95 %: +0.0 to +0.0)" in output
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["encoders"]["A"]["figures"]["linear/top1"] == 100
    assert content["encoders"]["A"]["figures"] == content["encoders"]["B"]["figures"]
    assert {each["figure"] for each in content["differences"]} == {"linear/top1", "linear/top5"}
    assert content["differences"][0]["num_videos"] == 24
    # Both are shown the same clips, so that each video is decoded once.
    assert len(opened) == len(set(opened)) == 24
    lists = content["encoders"]["B"]["lists_hash"]
    drawn = "95 %: bootstrap over 6 groups of test videos"
    clips = "clips: frames 4, crop_size 32, num_clips 2, num_crops 1, stride 2.0"
    line = f"6 folds ({lists}) · 24 test videos · {drawn} · seed 0 · {clips} · protocols: linear 1"
    assert content["provenance"] == line
    assert content["provenance"] in " ".join(output.split())


@pytest.mark.parametrize(("spread", "said"), [({"span": 0.85}, "span 0.85"), ({"span": None}, "stride 2.0")])
def test_provenance_names_what_there_is(spread: dict[str, float | None], said: str) -> None:
    protocols = {"linear": {"version": 1, "clips": {"frames": 8, "stride": 2.0, **spread}}}
    result = EvaluationResult(figures={}, chance={}, encoder={}, protocols=protocols, data={}, versions={})
    assert provenance({"": result}) == f"1 split · seed 0 · clips: frames 8, {said} · protocols: linear 1"


def test_a_single_split_says_how_many_videos_it_is_of() -> None:
    """A hundred percent of three videos is not that of three hundred."""
    train, test = {"num_evaluated": 1024}, {"num_evaluated": 3, "layout": "class folders"}
    data: dict[str, dict[str, Any]] = {"train": train, "test": test}
    result = EvaluationResult(figures={}, chance={}, encoder={}, protocols={}, data=data, versions={})
    assert "1 split · 1,024 training and 3 test videos (class folders) · seed 0" in provenance({"": result})


def test_chance_is_a_range_where_results_have_levels_of_their_own() -> None:
    """The share of the foreground by chance depends on the clips, that of a class on the data set."""
    levels = {"A": {"knn/top1": 10.0, "foreground/motion_share": 16.83}, "B": {"foreground/motion_share": 15.9}}
    assert chance_shown("foreground/motion_share", levels.values()) == "15.9 to 16.8"
    assert chance_shown("knn/top1", levels.values()) == "10.0"
    assert chance_shown("linear/top1", levels.values()) == ""
    results = {
        name: EvaluationResult(
            figures=dict.fromkeys(chance, 50.0), chance=chance, encoder={}, protocols={}, data={}, versions={}
        )
        for name, chance in levels.items()
    }
    (table,) = [part for part in comparison_table(results, "data").renderables if isinstance(part, Table)]
    (column,) = [column for column in table.columns if column.header == "chance"]
    assert list(column.cells) == ["15.9 to 16.8"]


def test_no_name_is_cut_short_in_a_narrow_table() -> None:
    names = ["linear/top1", "linear/top5", "diagnosis/one_frame/same_probe"]
    figures = dict.fromkeys(names, 50.0)
    result = EvaluationResult(
        figures=figures,
        chance=dict.fromkeys(names, 10.0),
        encoder={},
        protocols={},
        data={},
        versions={},
        sd=dict.fromkeys(names, 10.0),
        splits={str(number): figures for number in (1, 2, 3)},
        intervals=dict.fromkeys(names, (40.0, 60.0)),
    )
    encoders = [f"runs/ucf101_i3d_fima_seed_{seed}" for seed in range(4)]
    for table in (figures_table(result, "data"), comparison_table(dict.fromkeys(encoders, result), "data")):
        with Console(width=80, file=io.StringIO()) as console:
            console.print(table)
        assert isinstance(console.file, io.StringIO)
        printed = console.file.getvalue()
        assert "…" not in printed
        cells = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
        assert "".join(cell[1].strip() for cell in cells) == "".join(names)


def test_encoders_with_clips_of_their_own(videos: Path, tmp_path: Path, capsys: Capture, opened: list[Path]) -> None:
    words = ["compare", f"A={ONE}", f"B={OTHER}", f"C={ONE}", "--on", str(videos)]
    words += ["--cross-validation", "group", "--protocols", "knn", "--num-clips", "1", "--workers", "0"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "c.json")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "clips of A: frames 4, crop_size 32" in output
    assert "clips of B: frames 2, crop_size 32" in output
    assert sorted(opened.count(path) for path in set(opened)) == [2] * 24
    content = json.loads((tmp_path / "c.json").read_text())
    shown = [each["protocols"]["knn"]["clips"]["frames"] for each in content["encoders"].values()]
    assert shown == [4, 2, 4]


def test_what_each_encoder_chose_is_said(videos: Path, tmp_path: Path, capsys: Capture, opened: list[Path]) -> None:
    words = ["compare", f"A={ONE}", f"B={ONE}", "--on", str(videos), "--other-windows", "stride=1"]
    words += ["--cross-validation", "group", "--protocols", "knn", "--num-clips", "1", "--workers", "0"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "c.json")]) == 0
    output = capsys.readouterr().out
    assert all(f"{name}: knn: chose avg in 6 of 6 folds, on held-out" in output for name in "AB")
    # Once for each window, for both encoders together.
    assert sorted(opened.count(path) for path in set(opened)) == [2] * 24


def test_another_comparison_is_kept(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--on", str(videos), "--num-clips", "1", "--workers", "0", "--device", "cpu"]
    by_person, knn = ["--cross-validation", "group"], ["--protocols", "knn"]
    first = ["compare", f"A={ONE}", f"B={OTHER}", *words, *by_person, *knn]
    changed = ["compare", f"A={OTHER}", f"B={OTHER}", *words, *by_person, *knn]
    with_linear = ["compare", f"A={ONE}", f"B={OTHER}", *words, *by_person, "--protocols", "linear"]
    other_lists = ["compare", f"A={ONE}", f"B={OTHER}", *words, "--folds", "3", *knn]
    for argv, name in (
        (first, ""),
        (first, ""),
        (changed, "-2"),
        (with_linear, "-3"),
        (other_lists, "-4"),
        (changed, "-2"),
    ):
        assert main(argv) == 0
        assert f"wrote comparison{name}.json" in capsys.readouterr().out
    Path("comparison.json").unlink()
    Path("comparison.json").mkdir()
    assert main(first) == 2
    assert "comparison.json: is a folder" in capsys.readouterr().err


def test_encoders_that_cannot_be_compared(videos: Path, capsys: Capture) -> None:
    assert main(["compare", "a", "--on", str(videos)]) == 2
    assert "two encoders or more" in capsys.readouterr().err
    assert main(["compare", "a", "b", "X=a", "X=c", "--on", str(videos)]) == 2
    assert "two encoders are called X; give them names, such as A=c B=c" in capsys.readouterr().err
    assert main(["compare", ONE, "torchvision:none", "--on", str(videos), "--device", "cpu"]) == 2
    assert "torchvision has no such video network" in capsys.readouterr().err
