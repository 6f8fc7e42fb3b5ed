from pathlib import Path

import pytest

from fima.data.datasets import list_videos, recognise
from fima.errors import DataError
from tests.layout_files import labelled, write_lines, write_videos

HEADER = "label,youtube_id,time_start,time_end,split"
ROWS = (
    '"massaging person\'s head",-0AbcDefGh_,10,20,train',
    "tango dancing (close),AbCdEfGhIjK,0,10,train",
    "tango dancing (close),ABCDEFGHIJK,123,133,train",
    "tango dancing (close),gone0000000,1,11,train",
    "tango dancing (close),val00000000,5,15,validate",
    "massaging person's head,test0000000,5,15,test",
)
NAMES = (
    "-0AbcDefGh__000010_000020.mp4",
    "AbCdEfGhIjK_000000_000010.mkv",
    "ABCDEFGHIJK.mp4",
    "val00000000_000005_000015.mp4",
    "test0000000_000005_000015.mp4",
    "other000000_000005_000015.mp4",
)


def test_class_folders(tmp_path: Path) -> None:
    write_videos(tmp_path, "train_256/massaging_person's_head/a.mp4", "train_256/tango dancing (close)/b.mp4")
    write_videos(tmp_path, "val_256/massaging person's head/c.mp4", "val_256/tango_dancing_(close)/d.mp4")
    write_videos(tmp_path, "test_256/tango_dancing_(close)/e.mp4", "preview.mp4")
    assert recognise(tmp_path) == "k400"
    train, test = list_videos(tmp_path, "train", dataset="k400"), list_videos(tmp_path, "test")
    assert train.classes == test.classes
    assert len(train.classes) == 2
    assert [video.label for video in train.videos] == [0, 1]
    assert {path: video.label for path, video in zip(labelled(test), test.videos, strict=True)} == {
        "val_256/massaging person's head/c.mp4": 0,
        "val_256/tango_dancing_(close)/d.mp4": 1,
    }
    assert len(list_videos(tmp_path, "all").videos) == 5


def test_training_folder_alone(tmp_path: Path) -> None:
    write_videos(tmp_path, "train_256/a/a.mp4", "train_256/b/b.mp4")
    assert len(list_videos(tmp_path, dataset="k400").videos) == 2
    with pytest.raises(DataError, match="no test split; found train_256"):
        list_videos(tmp_path, "test", dataset="k400")


def test_any_split_folders_when_asked_for(tmp_path: Path) -> None:
    write_videos(tmp_path, "train/a_b/a.mp4", "train/c/b.mp4", "val/a b/c.mp4")
    assert recognise(tmp_path) == "folder"
    assert list(labelled(list_videos(tmp_path, "test", dataset="k400")).values()) == ["a_b"]


@pytest.mark.parametrize("folders", ["", "train/tango_dancing_(close)/", "tango dancing (close)/"])
def test_official_lists_with_any_folder(folders: str, tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", *(folders + name for name in NAMES))
    csv = write_lines(tmp_path / "lists/kinetics.csv", HEADER, *ROWS)
    root = tmp_path / "videos"
    train = list_videos(root, "train", annotations=csv)
    assert train.dataset == "k400"
    assert labelled(train) == {
        f"{folders}-0AbcDefGh__000010_000020.mp4": "massaging person's head",
        f"{folders}ABCDEFGHIJK.mp4": "tango dancing (close)",
        f"{folders}AbCdEfGhIjK_000000_000010.mkv": "tango dancing (close)",
    }
    assert train.missing == ["tango dancing (close)/gone0000000_000001_000011"]
    assert train.unlisted == [str(root / folders / "other000000_000005_000015.mp4")]
    assert "3 of 4 listed videos are there" in train.warnings()[0]
    test = list_videos(root, "test", annotations=tmp_path / "lists")
    assert labelled(test) == {f"{folders}val00000000_000005_000015.mp4": "tango dancing (close)"}
    assert test.layout == "Kinetics-400, official list (validate videos)"
    everything = list_videos(root, "all", annotations=csv)
    assert len(everything.videos) == 6
    assert labelled(everything)[f"{folders}test0000000_000005_000015.mp4"] == "massaging person's head"


def test_lists_in_the_root_and_a_file_for_each_split(tmp_path: Path) -> None:
    write_videos(tmp_path, *NAMES)
    write_lines(tmp_path / "annotations/train.csv", "youtube_id,time_start,time_end,label", "AbCdEfGhIjK,0,10,x")
    write_lines(tmp_path / "annotations/test.csv", "youtube_id,time_start,time_end", "test0000000,5.0,15.0")
    assert recognise(tmp_path) == "k400"
    assert labelled(list_videos(tmp_path)) == {"AbCdEfGhIjK_000000_000010.mkv": "x"}
    test = list_videos(tmp_path, "test")
    assert labelled(test) == {"test0000000_000005_000015.mp4": None}
    assert test.layout.endswith("(test videos)")


def test_lists_without_labels_beside_class_folders(tmp_path: Path) -> None:
    """The videos were listed as unlabelled. Folders of splits, or none, are no classes."""
    write_videos(tmp_path / "a", "train/tango_dancing/AbCdEfGhIjK.mp4", "train/yoga/ABCDEFGHIJK.mp4")
    write_videos(tmp_path / "a", "val/tango dancing/val00000000.mp4", "val/yoga/other000000.mp4")
    write_videos(tmp_path / "b", "train/AbCdEfGhIjK.mp4", "train/ABCDEFGHIJK.mp4", "val/val00000000.mp4")
    rows = ("AbCdEfGhIjK,0,10,train", "ABCDEFGHIJK,0,10,train", "val00000000,0,10,val")
    csv = write_lines(tmp_path / "k.csv", "youtube_id,time_start,time_end,split", *rows)
    train, test, every = (list_videos(tmp_path / "a", split, annotations=csv) for split in ("train", "test", "all"))
    assert train.classes == test.classes == ["tango dancing", "yoga"]
    assert [video.label for video in (*train.videos, *test.videos, *every.videos)] == [0, 1, 0, 0, 1, 0, 1]
    assert test.notes[0] == "the lists have no labels: those of 2 folders are used, such as tango dancing"
    assert list_videos(tmp_path / "b", annotations=csv).classes == []


def test_rows_without_a_label_have_that_of_their_folder(tmp_path: Path) -> None:
    write_videos(tmp_path, "train/tango_dancing/AbCdEfGhIjK.mp4", "test/tango_dancing/test0000000.mp4")
    write_lines(tmp_path / "k.csv", HEADER, "tango dancing,AbCdEfGhIjK,0,10,train", ",test0000000,0,10,test")
    assert list(labelled(list_videos(tmp_path, "test")).values()) == ["tango dancing"]


def test_the_same_name_in_two_folders(tmp_path: Path) -> None:
    name = "AbCdEfGhIjK_000000_000010.mp4"
    write_videos(tmp_path, f"a/{name}", f"tango_dancing/{name}")
    write_lines(tmp_path / "k.csv", HEADER, "tango dancing,AbCdEfGhIjK,0,10,train")
    assert list(labelled(list_videos(tmp_path))) == [f"tango_dancing/{name}"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,AbCdEfGhIjK,zero,10,train", r"k\.csv, line 2: time_start is 'zero', expected seconds"),
        ("x,AbCdEfGhIjK,0,10,trian", r"line 2: unknown split 'trian'"),
        ("x,../AbCdEfGhIjK,0,10,train", r"line 2: '\.\./AbCdEfGhIjK' is not the name of a video"),
        (
            "x,notthere000,0,10,train",
            r"none of the videos of the train split is there \(1 listed, such as x/notthere000",
        ),
        ('x,"AbCdEfGhIjK,0,10,train', "cannot be read"),
    ],
)
def test_bad_rows(row: str, message: str, tmp_path: Path) -> None:
    write_videos(tmp_path, *NAMES)
    write_lines(tmp_path / "k.csv", HEADER, row)
    with pytest.raises(DataError, match=message):
        list_videos(tmp_path)


def test_rows_of_another_length_are_named(tmp_path: Path) -> None:
    write_videos(tmp_path, *NAMES)
    csv = write_lines(tmp_path / "k.csv", HEADER, "x,AbCdEfGhIjK,0,10,train", "x,y")
    assert f"1 unreadable row, such as {csv}, line 3: 2 fields, expected 5" in list_videos(tmp_path).warnings()
