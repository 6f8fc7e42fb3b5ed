import shutil
from pathlib import Path

import pytest

from fima.data.datasets import list_videos, recognise
from fima.data.layouts.ucf101 import OFFICIAL
from fima.errors import DataError
from tests.layout_files import labelled, write_lines, write_videos
from tests.test_datasets import touch
from tests.video_files import decode_all


def write_ucf101(root: Path, videos: str, anno: str) -> None:
    write_videos(root / videos, "Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g08_c01.avi")
    write_videos(root / videos, "YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g08_c01.avi", "YoYo/v_YoYo_g26_c01.avi")
    lists = root / anno
    write_lines(lists / "classInd.txt", "2 Archery\r", "1 YoYo\r")
    write_lines(lists / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2", "YoYo/v_YoYo_g08_c01.avi 1", "")
    write_lines(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi", "YoYo/v_YoYo_g01_c01.avi")
    write_lines(lists / "._trainlist01.txt", "what macOS keeps beside a file")
    write_lines(lists / "trainlist02.txt", "Archery/v_Archery_g01_c01.avi 2")
    write_lines(lists / "testlist02.txt", "Archery/v_Archery_g08_c01.avi")


@pytest.mark.parametrize(
    ("videos", "anno"),
    [
        ("data", "anno"),
        ("UCF-101", "ucfTrainTestlist"),
        (".", "annotations"),
        ("videos", "."),
        ("UCF-101/UCF-101", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist"),
        ("some/where", "my_splits"),
    ],
)
def test_usual_names_of_the_folders(videos: str, anno: str, tmp_path: Path) -> None:
    write_ucf101(tmp_path, videos, anno)
    prefix = "" if videos == "." else f"{videos}/"
    assert recognise(tmp_path) == "ucf101"
    train = list_videos(tmp_path, "train", dataset="ucf101")
    assert train.classes == ["YoYo", "Archery"]
    assert labelled(train) == {
        f"{prefix}Archery/v_Archery_g08_c01.avi": "Archery",
        f"{prefix}YoYo/v_YoYo_g08_c01.avi": "YoYo",
    }
    assert len(decode_all(train.videos[0].path)) == 4
    assert train.missing == []
    assert train.unlisted == [str(tmp_path / videos / "YoYo/v_YoYo_g26_c01.avi")]
    assert train.dataset == "ucf101"
    second = list_videos(tmp_path, "test", 2)
    assert labelled(second) == {f"{prefix}Archery/v_Archery_g08_c01.avi": "Archery"}
    everything = list_videos(tmp_path, "all")
    assert len(everything.videos) == 5
    assert everything.unlisted == []
    assert labelled(everything)[f"{prefix}YoYo/v_YoYo_g26_c01.avi"] == "YoYo"


def test_annotations_that_lie_elsewhere(tmp_path: Path) -> None:
    write_ucf101(tmp_path / "here", "data", "../there")
    assert recognise(tmp_path / "here") == "folder"
    assert recognise(tmp_path / "here", tmp_path / "there") == "ucf101"
    assert len(list_videos(tmp_path / "here", "test", annotations=str(tmp_path / "there")).videos) == 2


def test_lists_deeper_in_a_plain_folder_are_named(tmp_path: Path) -> None:
    """All videos were trained on without a word, those of the test list, too."""
    write_ucf101(tmp_path, "here/UCF-101", "here/UCF-101/ucfTrainTestlist")
    listed = list_videos(tmp_path)
    assert (listed.dataset, len(listed.videos)) == ("folder", 5)
    place = tmp_path / "here/UCF-101/ucfTrainTestlist"
    assert listed.warnings()[0] == (
        "4 official lists not read, such as here/UCF-101/ucfTrainTestlist/testlist01.txt: to keep test videos out of "
        f"training, give its data set alone, or --data.annotations {place}"
    )
    assert len(list_videos(tmp_path, annotations=place).videos) == 2
    assert not any("official" in each for each in list_videos(tmp_path, dataset="folder").warnings())


@pytest.mark.parametrize("folder", ["data/Archery/Archery", "data/train/Archery"])
def test_videos_deeper_than_listed(folder: str, tmp_path: Path) -> None:
    """As where the archive of each class was unpacked into a folder of its own; the name alone is not enough."""
    write_ucf101(tmp_path, "data", "anno")
    (tmp_path / "data/Archery/v_Archery_g08_c01.avi").unlink()
    write_videos(tmp_path, "data/YoYo/v_Archery_g08_c01.avi")
    (tmp_path / "anno/classInd.txt").unlink()
    assert list_videos(tmp_path).missing == [str(tmp_path / "data/Archery/v_Archery_g08_c01.avi")]
    write_videos(tmp_path, f"{folder}/v_Archery_g08_c01.avi", f"{folder}/unlisted.avi")
    for annotated in (False, True):
        if annotated:
            write_lines(tmp_path / "anno/classInd.txt", "2 Archery", "1 YoYo")
        assert labelled(list_videos(tmp_path))[f"{folder}/v_Archery_g08_c01.avi"] == "Archery"
        assert labelled(list_videos(tmp_path, "all"))[f"{folder}/unlisted.avi"] == "Archery"


@pytest.mark.parametrize("folder", ["frames", "jpegs_256/ucf101", "."])
def test_frames_of_all_videos_in_one_folder(folder: str, tmp_path: Path) -> None:
    """As programs that extract frames leave them, without a folder for each class: no video was found."""
    write_ucf101(tmp_path, "data", "anno")
    shutil.rmtree(tmp_path / "data")
    for name in ("v_Archery_g01_c01", "v_Archery_g08_c01", "v_YoYo_g01_c01", "v_YoYo_g08_c01"):
        touch(tmp_path / folder / name, "img_00001.jpg", "img_00002.jpg")
    at = "" if folder == "." else f"{folder}/"
    train, test = list_videos(tmp_path), list_videos(tmp_path, "test")
    assert labelled(train) == {f"{at}v_Archery_g08_c01": "Archery", f"{at}v_YoYo_g08_c01": "YoYo"}
    assert labelled(test) == {f"{at}v_Archery_g01_c01": "Archery", f"{at}v_YoYo_g01_c01": "YoYo"}
    assert train.missing == train.unlisted == []


def test_another_extension_than_listed(tmp_path: Path) -> None:
    write_ucf101(tmp_path, "data", "anno")
    video = tmp_path / "data/Archery/v_Archery_g08_c01.avi"
    video.rename(video.with_suffix(".mp4"))
    write_videos(tmp_path, "data/YoYo/v_YoYo_g08_c01.mp4")
    assert list(labelled(list_videos(tmp_path))) == [
        "data/Archery/v_Archery_g08_c01.mp4",
        "data/YoYo/v_YoYo_g08_c01.avi",
    ]


def test_warnings(tmp_path: Path) -> None:
    write_ucf101(tmp_path, "data", "anno")
    gone = tmp_path / "data/Archery/v_Archery_g08_c01.avi"
    gone.unlink()
    unlisted = tmp_path / "data/YoYo/v_YoYo_g26_c01.avi"
    assert list_videos(tmp_path).warnings() == [
        f"UCF101, split 1, train: 1 of 2 listed videos are there; 1 missing, such as {gone}",
        f"UCF101, split 1, train: 1 video in no list, such as {unlisted}",
    ]
    assert list_videos(tmp_path).describe()["num_missing"] == 1
    named = list_videos(tmp_path, dataset="ucf101")
    assert named.expected == 9_537
    assert named.describe()["num_expected"] == 9_537
    assert "UCF101, split 1, train: the lists name 2 videos, the official split has 9,537" in named.warnings()
    write_videos(tmp_path, "data/Archery/v_Archery_g08_c01.avi")
    assert list_videos(tmp_path, "test", 2, dataset="ucf101").expected == 3_734


def test_lists_that_repeat_themselves(tmp_path: Path) -> None:
    write_ucf101(tmp_path, "data", "anno")
    video = "Archery/v_Archery_g08_c01.avi"
    write_lines(tmp_path / "anno/trainlist01.txt", f"{video} 2", f"{video} 2", "YoYo/v_YoYo_g01_c01.avi 1")
    train = list_videos(tmp_path)
    assert [train.num_listed, len(train.videos)] == [2, 2]
    shared = tmp_path / "data/YoYo/v_YoYo_g01_c01.avi"
    assert train.notes == [
        f"UCF101, split 1: 1 video listed more than once, such as {tmp_path / 'data' / video}",
        f"UCF101, split 1: 1 video listed for training and for testing, such as {shared}",
    ]


def test_the_official_counts() -> None:
    assert [counts["train"] for counts in OFFICIAL.values()] == [9_537, 9_586, 9_624]
    assert {counts["train"] + counts["test"] for counts in OFFICIAL.values()} == {13_320}


def test_the_official_count_is_expected_of_101_classes(tmp_path: Path) -> None:
    write_ucf101(tmp_path, "data", "anno")
    assert list_videos(tmp_path).expected is None
    more = (f"{number} class{number}" for number in range(3, 102))
    write_lines(tmp_path / "anno/classInd.txt", "1 YoYo", "2 Archery", *more)
    assert list_videos(tmp_path).expected == 9_537


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/etc/passwd 1", r"trainlist01\.txt, line 2: /etc/passwd points outside"),
        ("YoYo/../../x.avi 1", r"trainlist01\.txt, line 2: YoYo/\.\./\.\./x\.avi points outside"),
        ("Yodel/x.avi 1", r"line 2: Yodel/x\.avi is of no class in .*classInd\.txt"),
        ("YoYo/x.avi 2", r"line 2: YoYo/x\.avi has the number 2, which is another class"),
        ("x.avi", "line 2: cannot read 'x.avi'"),
    ],
)
def test_bad_lines(line: str, message: str, tmp_path: Path) -> None:
    write_ucf101(tmp_path, "data", "anno")
    write_lines(tmp_path / "anno/trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2", line)
    with pytest.raises(DataError, match=message):
        list_videos(tmp_path)


def test_bad_lists(tmp_path: Path) -> None:
    write_ucf101(tmp_path, "data", "anno")
    with pytest.raises(DataError, match=r"trainlist03\.txt.* has testlist01\.txt, testlist02\.txt, trainlist01\.txt"):
        list_videos(tmp_path, "train", 3)
    write_lines(tmp_path / "anno/testlist01.txt", "YoYo/v_8.avi", "YoYo/v_9.avi")
    with pytest.raises(DataError, match=r"none of the videos of the test split is there \(2 listed"):
        list_videos(tmp_path, "test")
    write_lines(tmp_path / "anno/classInd.txt", "YoYo 1")
    with pytest.raises(DataError, match="cannot read the line 'YoYo 1'"):
        list_videos(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    write_ucf101(tmp_path, "data", "anno")
    (tmp_path / "anno/trainlist01.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"trainlist01\.txt: cannot be read"):
        list_videos(tmp_path)
