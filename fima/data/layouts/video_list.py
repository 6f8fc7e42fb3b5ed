"""What every layout makes of a folder: one list of videos, with labels where there are any."""

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload
from unicodedata import normalize

from fima.config import Dataset
from fima.data.epoch_plan import EpochPlan

Split = Literal["train", "test", "all"]
NO_LABEL = -1


@dataclass(frozen=True)
class Video:
    """One video file."""

    path: Path
    label: int | None
    """Its class, as an index into `VideoList.classes`; None where there are no labels."""


class PackedVideos(Sequence[Video]):
    """Reads like a list of videos, and makes each when it is asked for: processes share it instead of copying it.

    Python counts references inside its objects, so that a forked process that only reads a list of objects still writes
    to, and thereby copies, the memory that they lie in. Arrays have one counter each. Names of files lie one after
    another in one block of bytes, as the operating system writes them.
    """

    def __init__(self, videos: Iterable[Video]) -> None:
        content, self._ends, self._labels = bytearray(), array("q", [0]), array("i")
        for video in videos:
            content += os.fsencode(video.path)
            self._ends.append(len(content))
            self._labels.append(NO_LABEL if video.label is None else video.label)
        self._content = bytes(content)

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> Video: ...
    @overload
    def __getitem__(self, index: slice) -> list[Video]: ...
    def __getitem__(self, index: int | slice) -> Video | list[Video]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        name = os.fsdecode(self._content[self._ends[place] : self._ends[place + 1]])
        label = self._labels[place]
        return Video(Path(name), None if label == NO_LABEL else label)


@dataclass(frozen=True, kw_only=True)
class VideoList:
    """The videos of one split of a data set, sorted by path."""

    videos: Sequence[Video]
    classes: list[str]
    """Class names; empty where there are no labels."""
    root: Path
    """The folder that was searched."""
    split: str
    """`train`, `test` or `all`."""
    layout: str
    """How the folder was read, in words."""
    dataset: Dataset = "folder"
    table: Path | None = None
    """The table of videos that it was read from; None where it was something else."""
    missing: list[str] = field(default_factory=list)
    """Videos that a list names but that are not there; without lists, broken links and folders that cannot be read."""
    unlisted: list[str] = field(default_factory=list)
    """Videos that are there but that no list names; empty for the split `all`, which has them."""
    num_listed: int | None = None
    """Videos that the lists name for this split; None where there are no lists."""
    expected: int | None = None
    """Videos that the official split has; None where that is not known."""
    notes: list[str] = field(default_factory=list)
    """What else was odd about the lists, one sentence each."""
    plan: EpochPlan | None = None
    """How often which part of each comes in training; None: each once, as a whole."""
    held_out: "VideoList | None" = None
    """Videos that were held out of these, to measure health on; None: there are none."""

    @property
    def epoch(self) -> EpochPlan:
        """What an epoch of training has of them."""
        return EpochPlan.plain(len(self.videos)) if self.plan is None else self.plan

    def by_set(self) -> dict[str, "VideoList"]:
        """The videos of each of several sets, by its name; nothing where they are one."""
        plan = self.epoch
        if len(plan.ends) == 1:
            return {}
        named = zip(plan.names, plan.sets, strict=True)
        return {name: replace(self, videos=self.videos[own.start : own.stop], plan=None) for name, own in named}

    def describe(self) -> dict[str, Any]:
        """A summary for records and reports."""
        optional = {"num_listed": self.num_listed, "num_expected": self.expected}
        return {
            "root": str(self.root.resolve()),
            "dataset": self.dataset,
            "layout": self.layout,
            "split": self.split,
            "num_videos": len(self.videos),
            "num_classes": len(self.classes),
            "num_missing": len(self.missing),
            "num_unlisted": len(self.unlisted),
            **({} if self.plan is None else self.plan.describe()),
            **{name: number for name, number in optional.items() if number is not None},
        }

    def warnings(self) -> list[str]:
        """What a person should know before using the list, one sentence each."""
        found, listed = [], self.num_listed
        if self.missing:
            missing = f"{len(self.missing):,} missing"
            if listed is None:
                missing = f"broken links or unreadable folders: {len(self.missing):,}"
            else:
                missing = f"{listed - len(self.missing):,} of {listed:,} listed videos are there; {missing}"
            found.append(f"{missing}, such as {self.missing[0]}")
        if self.expected is not None and listed is not None and listed != self.expected:
            found.append(f"the lists name {listed:,} videos, the official split has {self.expected:,}")
        found += noted(self.unlisted, "video", " in no list")
        about = [f"{self.layout}, {self.split}: {each}" for each in found]
        return [*about, *_classes_alike(self.classes), *self.notes]


def _classes_alike(classes: Sequence[str]) -> list[str]:
    """A warning of classes whose names differ in case, blanks or the spelling of accents only."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault("".join(normalize("NFKC", name).casefold().split()), []).append(name)
    alike = [" and ".join(map(ascii, names)) for names in groups.values() if len(names) > 1]
    return [f"classes that are nearly called the same count as different ones: {alike[0]}"] if alike else []


def relative_name(path: Path, root: Path) -> str:
    """A file's name relative to a folder; as it is where it lies elsewhere."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 video", "9,537 videos"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def none_there(split: str, num_listed: int, missing: Sequence[str]) -> str:
    """Say that not one video of a split is there, of so many that are listed, with one that is missing."""
    part = "" if split == "all" else f" of the {split} split"
    example = f", such as {missing[0]}" if missing else ""
    return f"none of the videos{part} is there ({num_listed:,} listed{example})"


def noted(found: Sequence[object], noun: str, how: str, advice: str = "") -> list[str]:
    """A note on what was found, with the first as an example: "2 videos in no list, such as a.mp4"; nothing of none."""
    return [f"{counted(len(found), noun)}{how}, such as {found[0]}{advice}"] if found else []


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which videos to list."""

    root: Path
    """The folder of videos, or a table of videos."""
    annotations: Path | None
    """List file or folder of list files, where they lie apart from the videos."""
    split: Split
    split_index: int
    """Number of the official split."""
    named: bool
    """Whether the data set was asked for by name, rather than recognised."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A data set: how it is recognised and listed."""

    name: Dataset
    """Its name on the command line."""
    title: str
    looked_for: str
    """What makes it out, for error messages."""
    recognise: Callable[[Path, Path | None], bool]
    """Whether a root, with its annotations, is this data set beyond doubt."""
    list_videos: Callable[[Request], VideoList]
    """Lists a split. Raises DataError where a list is missing or cannot be read, or none of its videos is there."""
    accepts: Callable[[Path, Path | None], bool] | None = None
    """What `may_be` asks; None: where it is recognised."""
    numbered_splits: bool = False

    def may_be(self, root: Path, annotations: Path | None) -> bool:
        """Whether a root may be read as this data set when it is asked for by name."""
        return (self.accepts or self.recognise)(root, annotations)
