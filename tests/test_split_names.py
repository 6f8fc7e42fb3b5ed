"""No test video gets into training because of how a folder is called."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from fima.data.datasets import list_videos
from fima.data.layouts.splits import split_of
from fima.errors import DataError
from tests.test_datasets import names, touch


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("train", "valid"),
        ("Train", "Val"),
        ("TRAINING", "Testing"),
        ("tr", "dev"),
        ("train_256", "validation"),
        ("train set", "test set"),
        ("trainset", "testset"),
        ("train2017", "val2017"),
        ("videos_train", "videos_test"),
        ("training", "EVAL"),
    ],
)
@pytest.mark.parametrize("place", ["{split}/{name}", "{name}/{split}", "data/{split}/{name}"])
def test_spellings_and_places_of_split_folders(train: str, test: str, place: str, tmp_path: Path) -> None:
    for split, video in ((train, "a.mp4"), (train, "b.mp4"), (test, "c.mp4")):
        touch(tmp_path, *(f"{place.format(split=split, name=name)}/{video}" for name in ("jump", "run")))
    found = {part: list_videos(tmp_path, part) for part in ("train", "test", "all")}
    assert {part: sorted(path.name for path in (v.path for v in found[part].videos)) for part in found} == {
        "train": ["a.mp4", "a.mp4", "b.mp4", "b.mp4"],
        "test": ["c.mp4", "c.mp4"],
        "all": ["a.mp4", "a.mp4", "b.mp4", "b.mp4", "c.mp4", "c.mp4"],
    }
    for listed in found.values():
        assert listed.classes == ["jump", "run"]
        assert all(listed.classes[video.label or 0] in video.path.parts for video in listed.videos)
        assert listed.warnings() == []


def test_validation_is_apart_from_the_test(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}/{split}.mp4" for split in ("train", "val", "test") for name in ("jump", "run")))
    assert names(list_videos(tmp_path, "train")) == ["train/jump/train.mp4", "train/run/train.mp4"]
    test = list_videos(tmp_path, "test")
    assert names(test) == ["test/jump/test.mp4", "test/run/test.mp4"]
    assert "val apart" in test.layout
    assert names(list_videos(tmp_path, "test", dataset="k400")) == ["val/jump/val.mp4", "val/run/val.mp4"]
    assert len(list_videos(tmp_path, "all").videos) == 6


def test_what_lies_beside_the_splits_is_in_none(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "Test/run/c.mp4", "Test/jump/c.mp4", "extra/run/d.mp4")
    touch(tmp_path, "stray.mp4")
    train = list_videos(tmp_path, "train")
    assert names(train) == ["train/jump/b.mp4", "train/run/a.mp4"]
    assert train.classes == ["jump", "run"]
    assert train.warnings() == ["2 videos outside train and test, in no split, such as extra/run/d.mp4"]
    everything = list_videos(tmp_path, "all")
    assert len(everything.videos) == 6
    assert {video.path.name: video.label for video in everything.videos if video.label is None}.keys() == {
        "d.mp4",
        "stray.mp4",
    }


@pytest.mark.parametrize("folders", [("trian", "tset"), ("lab_train", "lab_test"), ("validaton", "x"), ("run", "test")])
def test_near_misses_are_named(folders: tuple[str, str], tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/{name}/1.mp4" for folder in folders for name in ("jump", "dive")))
    listed = list_videos(tmp_path, "train")
    assert len(listed.videos) == 4
    (said,) = listed.warnings()
    assert "named like a split" in said
    for folder in set(folders) - {"x", "run"}:
        assert folder in said


def test_an_outer_folder_named_like_a_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"training_data/{split}/{name}/1.mp4" for split in ("train", "test") for name in ("jump", "run")))
    train = list_videos(tmp_path, "train")
    assert names(train) == ["training_data/train/jump/1.mp4", "training_data/train/run/1.mp4"]
    assert train.classes == ["jump", "run"]


def test_a_split_inside_another_one_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/1.mp4", "train/jump/1.mp4", "train/val/run/2.mp4")
    assert list_videos(tmp_path, "train").warnings() == [
        "1 video in a folder named like a split inside another one, such as train/val/run/2.mp4: read as train; "
        "put the folders of the splits next to each other",
        "1 video not in <class>/<video>, such as train/val/run/2.mp4: no video gets a label",
    ]


def test_splits_in_names_of_files_are_named(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"{name}/{split}_{i}.mp4" for name in ("jump", "run") for split in ("train", "test") for i in "12")
    )
    (said,) = list_videos(tmp_path, "train").warnings()
    assert said.startswith(
        "8 videos named like a split, such as jump/test_1.mp4: names of files are not read as splits"
    )
    touch(tmp_path / "other", "run/train_1.mp4", "run/contest.mp4", "jump/train_2.mp4")
    assert list_videos(tmp_path / "other", "train").warnings() == [], "trains"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_file_in_two_splits_is_named(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "test/jump/c.mp4", "pool/b.mp4")
    (tmp_path / "test/run").mkdir()
    link(tmp_path / "train/run/a.mp4", tmp_path / "test/run/d.mp4")
    link(tmp_path / "train/jump/b.mp4", tmp_path / "pool/again.mp4")
    said = "1 video in training and in the test part by links, such as test/run/d.mp4, which is train/run/a.mp4"
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        assert [note for note in list_videos(tmp_path, split).warnings() if "links" in note] == [
            f"{said}; keep one of each"
        ]


def test_a_link_hides_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4")
    (tmp_path / "test").symlink_to("train")
    train = list_videos(tmp_path, "train")
    assert len(train.videos) == 2
    assert train.warnings() == ["1 link to folders that are read anyway, such as test"]


def test_class_names_are_no_splits(tmp_path: Path) -> None:
    touch(tmp_path, "rain/1.mp4", "trimming trees/1.mp4", "device/1.mp4", "valley/1.mp4", "contest/1.mp4")
    assert list_videos(tmp_path).warnings() == []
    for name in ("rain", "dataset", "trend", "tests_of_strength", "dev_null_x", "", "256", "fold1"):
        assert split_of(name) is None, name


def test_classes_of_one_split_only_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "test/run/c.mp4", "test/swim/d.mp4")
    for split in ("train", "test"):
        assert list_videos(tmp_path, split).warnings() == [
            "only in the training split: jump (1 of 3 classes)",
            "only in the test split: swim (1 of 3 classes)",
        ]


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "Training/run/a.mp4", "Training/jump/b.mp4")
    with pytest.raises(DataError, match="no test split; found Training, looked for val, valid"):
        list_videos(tmp_path, "test")
