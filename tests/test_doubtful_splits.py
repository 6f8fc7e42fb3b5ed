"""What evaluation says of test videos that are few, or of people who are on both sides."""

import re
import shlex
from pathlib import Path

import pytest

from fima.cli import main
from fima.commands.labelled import few_tested, names_on_both_sides
from fima.data.datasets import Video, VideoList
from fima.data.layouts.folder import HELD_OUT
from fima.evaluate.protocols import EvaluationConfig, SplitLists
from fima.evaluate.splits import list_folds
from tests.video_files import write_ucf101_avi

PEOPLE = ("anna", "ben", "cora", "dora")


def lists(train: dict[str, int], test: dict[str, int], layout: str = f"class folders, {HELD_OUT}") -> SplitLists:
    """Files and their classes."""
    train_list, test_list = (
        VideoList(
            videos=[Video(Path("v", name), label) for name, label in files.items()],
            classes=["walk", "run"],
            root=Path("v"),
            split=split,
            layout=layout,
        )
        for split, files in (("train", train), ("test", test))
    )
    return SplitLists(train=train_list, test=test_list)


def files(take: int, *people: str) -> dict[str, int]:
    return {f"{person}_{take}_{label}.mp4": label for person in people for label in (0, 1)}


def test_people_on_both_sides_of_class_folders_are_named() -> None:
    said = names_on_both_sides(lists(files(1, *PEOPLE), files(2, *PEOPLE)))
    assert said is not None
    assert "begin alike (anna, ben, cora, …)" in said
    assert "--folds 4 --group-by '([^/_-]+)[_-][^/]*$'" in said, "as many as there are people"
    more = lists(files(1, *PEOPLE, "emil", "finn"), files(2, *PEOPLE))
    assert "--folds 5 " in str(names_on_both_sides(more))
    apart = lists(files(1, *PEOPLE), files(1, "emil", "finn", "gert"))
    cameras = lists(files(1, "IMG", "VID"), files(2, "IMG", "VID"))
    by_class = lists({"walk_1.mp4": 0, "run_1.mp4": 1, "r_1.mp4": 1}, {"walk_2.mp4": 0, "run_2.mp4": 1, "r_2.mp4": 1})
    official = lists(files(1, *PEOPLE), files(2, *PEOPLE), layout="UCF101, split 1")
    numbered = lists({"1.mp4": 0, "2.mp4": 1}, {"3.mp4": 0})
    without = lists({**files(1, *PEOPLE), "plain.mp4": 0}, files(2, *PEOPLE))
    for other in (apart, cameras, by_class, official, numbered, without):
        assert names_on_both_sides(other) is None


def test_of_few_test_videos_one_counts_much() -> None:
    said = few_tested(lists(files(1, *PEOPLE), files(2, "anna", "ben")))
    assert said == "4 test videos: one is 25 points; --folds N --group-by … tests every video once"
    assert few_tested(lists({}, {f"{number}.mp4": 0 for number in range(20)})) is None


def test_what_is_said_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both warnings at once, and the second one's words as they stand."""
    for person in ("anna", "ben", "cora"):
        for label in ("run", "walk"):
            for take in range(5):
                write_ucf101_avi(tmp_path / "v" / label / f"{person}_{take}.avi", num_frames=8, side=32)
    words = ["evaluate", "small", str(tmp_path / "v"), "--protocols", "knn", "--num-clips", "1", "--workers", "0"]
    words += ["--frames", "4", "--crop-size", "32", "--device", "cpu", "--out", str(tmp_path / "result.json")]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "6 test videos: one is 17 points" in said
    found = re.search(r"(--folds \d --group-by '[^']*')", said)
    assert found is not None
    assert main([*words, *shlex.split(found[1])]) == 0
    assert "begin alike" not in capsys.readouterr().err


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Five takes each of two people, in two classes."""
    for number in range(5):
        for label in ("run", "walk"):
            for person in ("anna", "ben"):
                write_ucf101_avi(tmp_path / label / f"{person}_{number}.avi", num_frames=8, side=32)
    return tmp_path


def test_a_person_who_is_several_groups_with_the_folder_is_named(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def notes(group_by: str) -> list[str]:
        return [*list_folds(videos, EvaluationConfig(folds=2, group_by=group_by))["0"].train.notes]

    assert any("run/anna and walk/anna are groups of their own" in note for note in notes("^([^_]+)_"))
    assert not notes("([^/_-]+)[_-][^/]*$")
    assert main(["evaluate", "small", str(videos), "--folds", "2"]) == 2
    assert "'/([^/_]+)_' is the person of walk/anna_1.mp4" in capsys.readouterr().err
