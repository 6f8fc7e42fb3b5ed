from pathlib import Path

import pytest

from fima.data.datasets import list_videos, recognise
from fima.errors import DataError
from tests.layout_files import labelled, write_lines, write_videos
from tests.video_files import decode_all

ODD_NAMES = (
    "#122_Cleaning_Up_The_Beach_In_Chiba__Japan_pick_f_nm_np1_fr_med_1.avi",
    "(HQ)_Rugby_Best_Runs_&_Tries_kick_f_cm_np1_ba_med_3.avi",
    "Two Towers; part 2 [HD]_pick_u_cm_np1_fr_goo_0.avi",
    "50%_off 100 1_pick_u_cm_np1_fr_goo_2.avi",
)


def write_hmdb51(root: Path, videos: str, anno: str) -> None:
    write_videos(root / videos / "pick", *ODD_NAMES, "unlisted.avi")
    write_videos(root / videos / "brush_hair", "a.avi", "b.avi")
    for split, flags in {1: "1201", 2: "2110"}.items():
        lines = (f"{name} {flag} " for name, flag in zip(ODD_NAMES, flags, strict=True))
        write_lines(root / anno / f"pick_test_split{split}.txt", *lines)
        write_lines(root / anno / f"brush_hair_test_split{split}.txt", "a.avi 1 ", "b.avi 2 ")
        write_lines(root / anno / f"._brush_hair_test_split{split}.txt", "what macOS keeps beside a file")


@pytest.mark.parametrize(
    ("videos", "anno"),
    [
        ("data", "anno"),
        ("videos", "testTrainMulti_7030_splits"),
        ("hmdb51_org", "splits"),
        ("hmdb51_org/hmdb51_org", "test_train_splits/testTrainMulti_7030_splits"),
    ],
)
def test_odd_names_in_both_usual_places(videos: str, anno: str, tmp_path: Path) -> None:
    write_hmdb51(tmp_path, videos, anno)
    assert recognise(tmp_path) == "hmdb51"
    train, test = list_videos(tmp_path, "train"), list_videos(tmp_path, "test", dataset="hmdb51")
    assert train.classes == ["brush_hair", "pick"]
    assert labelled(train) == {
        f"{videos}/brush_hair/a.avi": "brush_hair",
        f"{videos}/pick/{ODD_NAMES[0]}": "pick",
        f"{videos}/pick/{ODD_NAMES[3]}": "pick",
    }
    assert labelled(test) == {f"{videos}/brush_hair/b.avi": "brush_hair", f"{videos}/pick/{ODD_NAMES[1]}": "pick"}
    assert all(len(decode_all(video.path)) == 4 for video in train.videos)
    assert train.unlisted == [str(tmp_path / videos / "pick/unlisted.avi")]
    assert [train.expected, test.expected] == [None, 1_530]
    second = list_videos(tmp_path, "test", 2)
    assert second.layout == "HMDB51, split 2"
    assert f"{videos}/pick/{ODD_NAMES[0]}" in labelled(second)
    assert len(list_videos(tmp_path, "all").videos) == 7


def test_bad_lists(tmp_path: Path) -> None:
    write_hmdb51(tmp_path, "data", "anno")
    with pytest.raises(DataError, match=r"no <class>_test_split3\.txt; there are \[1, 2\]"):
        list_videos(tmp_path, "train", 3)
    for line, message in {
        "a.avi 3": r"brush_hair_test_split1\.txt, line 1: cannot read 'a\.avi 3'",
        "/tmp/a.avi 1": r"brush_hair_test_split1\.txt, line 1: /tmp/a\.avi points outside",
        "../pick/unlisted.avi 1": "line 1: .* points outside",
    }.items():
        write_lines(tmp_path / "anno/brush_hair_test_split1.txt", line)
        with pytest.raises(DataError, match=message):
            list_videos(tmp_path)


def test_missing_videos_are_named(tmp_path: Path) -> None:
    write_hmdb51(tmp_path, "data", "anno")
    (tmp_path / "data/pick" / ODD_NAMES[3]).unlink()
    train = list_videos(tmp_path)
    assert train.missing == [str(tmp_path / "data/pick" / ODD_NAMES[3])]
    assert train.num_listed == 3
    assert "2 of 3 listed videos are there" in train.warnings()[0]
