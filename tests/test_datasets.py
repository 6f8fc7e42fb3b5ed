import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fima.data.datasets import VideoList, list_videos
from fima.data.layouts.files import Files
from fima.data.layouts.folder import refuse_copies
from fima.errors import DataError

NOBODY = 65534


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


@pytest.mark.parametrize(
    ("whole", "copy", "record"),
    [
        ("videos/{}.avi", "videos_256/{}.mp4", ""),
        ("set/videos/run/{}.avi", "set/videos-128x171/run/{}.avi", ""),
        ("frames/{}/1.jpg", "frames_small/{}/1.jpg", ""),
        ("train/run/{}.avi", "train_256/run/{}.mp4", ""),
        ("raw/{}.avi", "small/{}.mp4", "small/prepared.jsonl"),
    ],
)
def test_a_folder_and_its_scaled_copy_are_no_classes(whole: str, copy: str, record: str, tmp_path: Path) -> None:
    """They were two classes of the same videos, or every video was there twice."""
    touch(tmp_path, *(name.format(i) for name in (whole, whole.replace("1.", "2.")) for i in range(5)))
    touch(tmp_path, *(name.format(i) for name in (copy, copy.replace("1.", "2.")) for i in range(4)), record or "note")
    for dataset in ("auto", "k400") if whole.startswith("train") else ("auto",):
        with pytest.raises(DataError, match=r"hold the same videos, such as .*0; give one .* or move one"):
            list_videos(tmp_path, dataset=dataset)


def test_classes_of_equal_file_names_are_no_copies(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.avi" for name in ("jump", "jump_2", "take_100", "take_200") for i in range(3)))
    touch(tmp_path, "jump/prepared.jsonl", *(f"{name}/prepared.jsonl" for name in ("jump_2", "take_100", "take_200")))
    touch(tmp_path, "run/a.avi", "run_fast/a.avi", "walk/b.avi", "walk_small/c.avi")
    assert len(list_videos(tmp_path).classes) == 8


@pytest.mark.parametrize("record", ["note", "walk/prepared.jsonl"])
def test_classes_of_numbered_videos_are_no_copies_whatever_their_names(record: str, tmp_path: Path) -> None:
    """They were refused: the classes `walk` and `walk_small` beside another one, or one of several prepared alone."""
    classes = ["jump", "run", "run_256", "walk", "walk_small"]
    touch(tmp_path, record, *(f"{name}/{i}.avi" for name in classes for i in range(3)))
    assert list_videos(tmp_path).classes == classes


class Looked(list[Path]):
    """Counts how often all of it was looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Path]:
        self.looks += 1
        return super().__iter__()


def test_copies_are_found_by_two_looks_at_all_videos() -> None:
    """Of classes such as `walk` and `walk_small`, every pair looked at all: hours, of hundreds of thousands."""
    videos = Looked(Path(f"{i}{end}/{i}{end or 'a'}.avi") for i in range(50) for end in ("", "_small"))
    refuse_copies(Files(root=Path(), videos=videos, others=[], missing=[]))
    assert videos.looks <= 2


def test_folders_without_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_videos(tmp_path / "missing")
    with pytest.raises(DataError, match="the folder is empty"):
        list_videos(tmp_path)
    touch(tmp_path, "a/x.jpg", "a/y.jpg", "README")
    with pytest.raises(DataError, match=r"no video among 3 files \(2 \.jpg, 1 no extension\)"):
        list_videos(tmp_path)
    touch(tmp_path, "run/last.pt", "run/.fima-output")
    with pytest.raises(DataError, match=r"results of fima, without a video; videos are given after the encoder"):
        list_videos(tmp_path / "run")


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


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """A file or folder that cannot be read, not even by the superuser, who is somebody else meanwhile."""
    mode, is_root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(mode)


@contextmanager
def folder_of_everybody() -> Iterator[Path]:
    """A temporary folder that nobody else reaches through folders of one user, as pytest's are."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_unreadable_folders() -> None:
    with folder_of_everybody() as root:
        touch(root, "a.mp4", "closed/b.mp4")
        with without_rights(root / "closed"):
            listed = list_videos(root)
    assert names(listed) == ["a.mp4"]
    assert listed.missing == [str(root / "closed")]
