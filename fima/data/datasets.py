"""Finding the videos of a folder, with labels and a train/test split where the folder has them."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fima.errors import DataError

Split = Literal["train", "test", "all"]

# fmt: off
VIDEO_EXTENSIONS = frozenset({
    ".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".hevc", ".ivf", ".m1v",
    ".m2p", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv",
    ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv",
    ".wtv", ".xvid", ".y4m",
})
# fmt: on
TRAIN_FOLDERS = ("train", "train_256", "training")
TEST_FOLDERS = ("test", "test_256", "testing", "val", "val_256", "validation")
HOLD_OUT_EVERY = 5


@dataclass(frozen=True)
class Video:
    """One video file."""

    path: Path
    """Where it is."""
    label: int | None
    """Its class, as an index into `VideoList.classes`; None where there are no labels."""


@dataclass(frozen=True, kw_only=True)
class VideoList:
    """The videos of one split of a folder, sorted by path."""

    videos: list[Video]
    """The files that were found."""
    classes: list[str]
    """Class names; empty where there are no labels."""
    root: Path
    """The folder that was searched."""
    split: str
    """`train`, `test` or `all`."""
    layout: str
    """How the folder was read, in words."""
    missing: list[str] = field(default_factory=list)
    """Files that a split file lists or a link points to but that are not there, and folders that cannot be read."""

    def describe(self) -> dict[str, str | int]:
        """A summary for records and reports."""
        return {
            "root": str(self.root),
            "layout": self.layout,
            "split": self.split,
            "num_videos": len(self.videos),
            "num_classes": len(self.classes),
            "num_missing": len(self.missing),
        }


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """What lies below a folder, as sorted paths relative to it."""

    videos: list[Path]
    others: list[Path]
    missing: list[str]


def list_videos(root: Path, split: Split = "train", split_index: int = 1) -> VideoList:
    """Lists the videos of a folder; the layout is recognised, never configured.

    - UCF101: `data/<Class>/*` and `anno/` with `classInd.txt`, `trainlist01.txt`, `testlist01.txt`, … 02, 03.
    - Split folders: `train/` and `val/` or `test/` (also Kinetics' `train_256/`), each with one folder a class.
    - Class folders: every video is in `<class>/<video>`, of at least two classes. Every fifth video of each class in
      sorted order is held out as the test split.
    - Anything else, at any depth, is a folder without labels: `train` and `all` are all its videos. That includes
      videos both at the root and in folders, and a single class folder.

    Files are recognised by their extension. Hidden files and folders are passed over, links are followed.

    Args:
        root: the folder.
        split: which part of it.
        split_index: number of the split, for UCF101.

    Returns:
        At least one video.

    Raises:
        DataError: the folder is missing, unreadable or empty, has no video, or not the split that was asked for.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"{root}: no such folder; give the folder that holds the videos")
    if not root.is_dir():
        raise DataError(f"{root}: is a file; give the folder that holds the videos ({root.parent})")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(f"{root}: the folder cannot be read; change its permissions")
    if (root / "data").is_dir() and any((root / "anno").glob("*list0*.txt")):
        return _ucf101(root, split, split_index)
    listing = _walk(root)
    if not listing.videos:
        raise DataError(_nothing_found(root, listing))
    tops = {path.parts[0] for path in listing.videos}
    if all(len(path.parts) > 1 for path in listing.videos) and tops <= {*TRAIN_FOLDERS, *TEST_FOLDERS}:
        return _split_folders(root, split, listing)
    classes = _class_names(listing.videos)
    if classes:
        return _class_folders(root, split, listing, classes)
    if split == "test":
        raise DataError(f"{root}: has no labels, so no test split; use class folders, or the split 'all'")
    videos = [Video(root / path, None) for path in listing.videos]
    return VideoList(
        videos=videos, classes=[], root=root, split=split, layout="videos without labels", missing=listing.missing
    )


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_EXTENSIONS


def _walk(root: Path) -> _Listing:
    videos: list[Path] = []
    others: list[Path] = []
    missing: list[str] = []
    visited: set[str] = set()

    def unreadable(error: OSError) -> None:
        missing.append(str(error.filename))

    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if not _is_video(name):
                others.append(path.relative_to(root))
            elif path.is_file():
                videos.append(path.relative_to(root))
            else:
                missing.append(str(path))
    return _Listing(videos=sorted(videos), others=sorted(others), missing=sorted(missing))


def _nothing_found(root: Path, listing: _Listing) -> str:
    if listing.missing:
        return f"{root}: no video that can be read; {len(listing.missing)} not there, such as {listing.missing[0]}"
    if not listing.others:
        return f"{root}: the folder is empty; give the folder that holds the videos"
    counts = Counter(path.suffix.lower() or "no extension" for path in listing.others)
    found = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5))
    return f"{root}: no video among {len(listing.others)} files ({found}); known are .avi, .mp4, .mkv, .webm, .mov, …"


def _class_names(videos: list[Path]) -> list[str]:
    """Class names where every video is in `<class>/<video>` and there are at least two classes, else nothing."""
    names = sorted({path.parts[0] for path in videos})
    return names if len(names) > 1 and all(len(path.parts) == 2 for path in videos) else []


def _class_folders(root: Path, split: Split, listing: _Listing, classes: list[str]) -> VideoList:
    videos: list[Video] = []
    for label, name in enumerate(classes):
        paths = [path for path in listing.videos if path.parts[0] == name]
        for position, path in enumerate(paths, start=1):
            held_out = position % HOLD_OUT_EVERY == 0
            if split == "all" or held_out == (split == "test"):
                videos.append(Video(root / path, label))
    if not videos:
        raise DataError(
            f"{root}: no class has {HOLD_OUT_EVERY} videos, so none is held out for the test split; "
            "put the test videos into test/<class>/ and the others into train/<class>/"
        )
    layout = f"class folders, every {HOLD_OUT_EVERY}th video of a class held out for testing"
    return VideoList(videos=videos, classes=classes, root=root, split=split, layout=layout, missing=listing.missing)


def _split_folders(root: Path, split: Split, listing: _Listing) -> VideoList:
    wanted = {"train": TRAIN_FOLDERS, "test": TEST_FOLDERS, "all": (*TRAIN_FOLDERS, *TEST_FOLDERS)}[split]
    classes = _class_names([Path(*path.parts[1:]) for path in listing.videos if len(path.parts) > 1])
    label_of = {name: label for label, name in enumerate(classes)}
    videos = [
        Video(root / path, label_of[path.parts[1]] if classes else None)
        for path in listing.videos
        if path.parts[0] in wanted
    ]
    if not videos:
        found = sorted({path.parts[0] for path in listing.videos})
        raise DataError(f"{root}: no {split} split; found {', '.join(found)}, looked for {', '.join(wanted)}")
    layout = "split folders with class folders" if classes else "split folders without labels"
    return VideoList(videos=videos, classes=classes, root=root, split=split, layout=layout, missing=listing.missing)


def _ucf101(root: Path, split: Split, split_index: int) -> VideoList:
    listing = _walk(root / "data")
    classes = _ucf101_classes(root / "anno" / "classInd.txt", listing.videos)
    label_of = {name: label for label, name in enumerate(classes)}
    there_are = set(listing.videos)
    missing = list(listing.missing)
    if split == "all":
        listed = listing.videos
    else:
        list_file = root / "anno" / f"{split}list{split_index:02d}.txt"
        if not list_file.is_file():
            there = ", ".join(sorted(path.name for path in list_file.parent.glob("*list0*.txt")))
            raise DataError(f"{list_file}: no such split file; {list_file.parent} has {there}")
        listed = sorted(Path(line.split()[0]) for line in _lines(list_file))
        missing += [str(root / "data" / path) for path in listed if path not in there_are]
    videos = [Video(root / "data" / path, label_of.get(path.parts[0])) for path in listed if path in there_are]
    if not videos:
        raise DataError(f"{root / 'data'}: none of the {len(listed)} videos of the {split} split is there")
    return VideoList(
        videos=videos,
        classes=classes,
        root=root,
        split=split,
        layout="UCF101" if split == "all" else f"UCF101, split {split_index}",
        missing=missing,
    )


def _ucf101_classes(index_file: Path, videos: list[Path]) -> list[str]:
    """Class names in the order of `classInd.txt` ("1 ApplyEyeMakeup"), or the sorted folders without that file."""
    if not index_file.is_file():
        return sorted({path.parts[0] for path in videos})
    numbered: dict[int, str] = {}
    for line in _lines(index_file):
        number, _, name = line.partition(" ")
        if not number.isdigit() or not name.strip():
            raise DataError(f"{index_file}: cannot read the line {line!r}; expected a number and a class name")
        numbered[int(number)] = name.strip()
    return [numbered[number] for number in sorted(numbered)]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
