import os
from pathlib import Path

import pytest

from fima.data.datasets import VideoList, list_videos
from fima.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(listed: VideoList) -> list[str]:
    return [video.path.relative_to(listed.root).as_posix() for video in listed.videos]


def test_any_nesting_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "b.MP4", "a/x.webm", "a/deep/er/y.Mkv", "a/notes.txt", ".hidden.mp4", ".cache/z.mp4")
    listed = list_videos(tmp_path)
    assert names(listed) == ["a/deep/er/y.Mkv", "a/x.webm", "b.MP4"]
    assert listed.classes == []
    assert {video.label for video in listed.videos} == {None}
    assert names(list_videos(tmp_path, "all")) == names(listed)
    with pytest.raises(DataError, match="no labels"):
        list_videos(tmp_path, "test")


def test_a_single_class_folder_is_no_label(tmp_path: Path) -> None:
    touch(tmp_path, "only/a.avi", "only/b.avi")
    assert list_videos(tmp_path).classes == []


def test_class_folders_hold_out_every_fifth_video(tmp_path: Path) -> None:
    touch(tmp_path, *(f"run/{i:02d}.avi" for i in range(11)), *(f"jump/{i:02d}.avi" for i in range(4)))
    everything, train, test = (list_videos(tmp_path, split) for split in ("all", "train", "test"))
    assert everything.classes == ["jump", "run"]
    assert names(test) == ["run/04.avi", "run/09.avi"]
    assert sorted(names(train) + names(test)) == names(everything)
    assert [video.label for video in test.videos] == [1, 1]
    assert "held out" in str(test.describe()["layout"])


def test_class_folders_too_small_for_a_test_split(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.avi", "jump/a.avi")
    with pytest.raises(DataError, match="test/<class>/"):
        list_videos(tmp_path, "test")


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("train_256", "val_256")])
def test_split_folders(train: str, test: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{train}/run/a.mp4", f"{train}/jump/b.mp4", f"{test}/run/c.mp4")
    assert names(list_videos(tmp_path, "train")) == [f"{train}/jump/b.mp4", f"{train}/run/a.mp4"]
    tested = list_videos(tmp_path, "test")
    assert names(tested) == [f"{test}/run/c.mp4"]
    assert [tested.classes[video.label or 0] for video in tested.videos] == ["run"]
    assert len(list_videos(tmp_path, "all").videos) == 3


def test_split_folder_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4")
    with pytest.raises(DataError, match="no test split; found train"):
        list_videos(tmp_path, "test")


def ucf101(root: Path) -> None:
    touch(root, "data/Swing/v_1.avi", "data/Swing/v_2.avi", "data/Archery/v_3.avi")
    anno = root / "anno"
    anno.mkdir()
    (anno / "classInd.txt").write_text("1 Swing\r\n2 Archery\r\n")
    (anno / "trainlist01.txt").write_text("Swing/v_2.avi 1\nSwing/v_gone.avi 1\nArchery/v_3.avi 2\n\n")
    (anno / "testlist01.txt").write_text("Swing/v_1.avi\n")


def test_ucf101(tmp_path: Path) -> None:
    ucf101(tmp_path)
    train = list_videos(tmp_path, "train")
    assert names(train) == ["data/Archery/v_3.avi", "data/Swing/v_2.avi"]
    assert train.classes == ["Swing", "Archery"]
    assert [video.label for video in train.videos] == [1, 0]
    assert train.missing == [str(tmp_path / "data/Swing/v_gone.avi")]
    assert train.layout == "UCF101, split 1"
    assert train.describe()["num_missing"] == 1
    assert names(list_videos(tmp_path, "test")) == ["data/Swing/v_1.avi"]
    assert len(list_videos(tmp_path, "all").videos) == 3


def test_ucf101_errors(tmp_path: Path) -> None:
    ucf101(tmp_path)
    with pytest.raises(DataError, match=r"trainlist02\.txt.* has testlist01\.txt, trainlist01\.txt"):
        list_videos(tmp_path, "train", 2)
    (tmp_path / "anno" / "testlist01.txt").write_text("Swing/v_8.avi\nSwing/v_9.avi\n")
    with pytest.raises(DataError, match="none of the 2 videos of the test split"):
        list_videos(tmp_path, "test")
    (tmp_path / "anno" / "classInd.txt").write_text("Swing 1\n")
    with pytest.raises(DataError, match="cannot read the line 'Swing 1'"):
        list_videos(tmp_path, "train")


def test_folders_without_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_videos(tmp_path / "missing")
    with pytest.raises(DataError, match="the folder is empty"):
        list_videos(tmp_path)
    touch(tmp_path, "a/x.jpg", "a/y.jpg", "README")
    with pytest.raises(DataError, match=r"no video among 3 files \(2 \.jpg, 1 no extension\)"):
        list_videos(tmp_path)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "v.mp4")
    with pytest.raises(DataError, match="give the folder"):
        list_videos(tmp_path / "v.mp4")


def test_links(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "real")
    (root / "broken.mp4").symlink_to(tmp_path / "gone.mp4")
    (root / "cycle").symlink_to(root)
    listed = list_videos(root)
    assert names(listed) == ["linked/a.mp4"]
    assert listed.missing == [str(root / "broken.mp4")]
    assert listed.warnings() == [
        f"videos without labels, train: broken links or unreadable folders: 1, such as {root / 'broken.mp4'}",
        "1 link to folders that are read anyway, such as cycle",
    ]


def test_of_two_ways_to_a_folder_that_without_a_link_counts(tmp_path: Path) -> None:
    touch(tmp_path, "b/v.mp4")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    assert names(list_videos(tmp_path)) == ["b/v.mp4"]


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="the superuser reads every folder")
def test_unreadable_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "closed/b.mp4")
    (tmp_path / "closed").chmod(0)
    try:
        listed = list_videos(tmp_path)
        assert names(listed) == ["a.mp4"]
        assert listed.missing == [str(tmp_path / "closed")]
    finally:
        (tmp_path / "closed").chmod(0o755)
