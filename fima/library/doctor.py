"""Which videos of a folder cannot be used or need care, and why."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fima.data.datasets import VideoList
from fima.data.packed_lists import relative_name
from fima.library.index import VideoIndex

DURATION_EDGES_SECONDS = (0, 1, 2, 5, 10, 20, 60, 300, 3600)
USUAL_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
DURATION_TOLERANCE_SECONDS = 1.0
DURATION_TOLERANCE_SHARE = 0.1
HASH_BLOCK_BYTES = 2**20
END_BYTES = 2**16

KINDS = {
    "file is empty": "empty file",
    "no video stream": "no video stream",
    "no frame": "no frame",
    "truncated": "truncated",
    "not done after": "takes too long",
    "Permission": "cannot be read",
    "cannot be read": "damaged",
    "cannot be opened": "cannot be opened",
    "not a regular file": "not a file",
    "cannot be decoded": "damaged",
    "damaged": "damaged",
    "frame size changes": "frame size changes",
}
"""Kinds of problems by what their reason says; the first that fits."""

ADVICE = {
    "empty file": "copy or download it again",
    "no video stream": "sound only, or no video at all: exclude it",
    "no frame": "copy or download it again",
    "truncated": "copy or download it again",
    "takes too long": "try again on a machine with less to do, or with a longer --timeout; else exclude it",
    "cannot be read": "change its permissions",
    "cannot be opened": "no video, or its header is lost: copy or download it again",
    "damaged": "copy or download it again, or exclude it",
    "frame size changes": "cut it where its size changes, or exclude it",
    "not a file": "a pipe, a socket or a device: take it out of the folder",
    "not there": "mend the link, the permissions or the list that names it, or do without",
    "unusable": "exclude it",
    "duplicate": "keep one of each, above all where one trains and the other tests",
    "rotated": "training ignores the rotation of players: `fima prepare` turns the frames",
    "interlaced": "frames of two fields: `fima prepare` makes whole frames of them",
    "pixel format": "decodes more slowly than yuv420p: `fima prepare` converts it",
    "duration": "not that of its frames: cut off, or its sound lasts longer; training goes by the frames",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about one file."""

    path: str
    """The file, relative to the folder; absolute where it lies elsewhere."""
    kind: str
    """What it is, in one or two words: a key of `ADVICE`."""
    reason: str
    """The particulars."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What lies in a folder of videos, and what is wrong with it. Counts are of videos that can be used."""

    root: str
    """The folder."""
    layout: str
    """How it was read."""
    decoded: bool
    """Whether every video was decoded to its end."""
    num_videos: int
    """Videos that were found."""
    total_bytes: int
    """Their size."""
    total_seconds: float
    """Their duration."""
    total_frames: int
    """Their frames."""
    codecs: dict[str, int]
    """Videos by codec."""
    pixel_formats: dict[str, int]
    """Videos by pixel format."""
    sizes: dict[str, int]
    """Videos by width x height."""
    frame_rates: dict[str, int]
    """Videos by frames per second, rounded to hundredths."""
    durations: dict[str, int]
    """Videos by duration, in steps of `DURATION_EDGES_SECONDS`."""
    problems: list[Finding]
    """Videos that cannot be used."""
    notes: list[Finding]
    """Videos that can be used but need care."""
    remarks: list[str]
    """What is odd about the folder and its lists, one sentence each."""

    def to_dict(self) -> dict[str, object]:
        """Everything, as it goes into a JSON file."""
        return asdict(self)

    def quarantine(self) -> list[str]:
        """The unusable videos that are there, relative to the folder."""
        return [finding.path for finding in self.problems if finding.kind != "not there"]


def diagnose(videos: VideoList, index: VideoIndex, *, decoded: bool) -> Diagnosis:
    """Gather what an index tells about the videos of a folder, and compare the content of files of the same size.

    Args:
        videos: the list, with what is missing from it.
        index: the index of its folder.
        decoded: whether the index was made with every video decoded.
    """
    good = np.ones(len(index), dtype=bool)
    good[list(index.problems)] = False
    problems = [
        Finding(path=index.paths[place], kind=_kind(reason), reason=reason) for place, reason in index.problems.items()
    ]
    problems += [
        Finding(path=relative_name(Path(path), index.root), kind="not there", reason=why_missing(Path(path)))
        for path in videos.missing
    ]
    shapes = zip(index.width[good].tolist(), index.height[good].tolist(), strict=True)
    return Diagnosis(
        root=str(index.root),
        layout=videos.layout,
        decoded=decoded,
        num_videos=len(index),
        total_bytes=int(index.size.sum()),
        total_seconds=round(float(index.duration_seconds.sum(dtype=np.float64)), 3),
        total_frames=int(index.num_frames.sum()),
        codecs=_counted(index.names[code] for code in index.codec[good].tolist()),
        pixel_formats=_counted(index.names[code] for code in index.pixel_format[good].tolist()),
        sizes=_counted(f"{width}x{height}" for width, height in shapes),
        frame_rates=_counted(f"{rate:g}" for rate in index.fps[good].round(2).tolist()),
        durations=_histogram(index.duration_seconds[good]),
        problems=problems,
        notes=[*_notes(index, good), *_duplicates(index, good)],
        remarks=videos.notes,
    )


def why_missing(path: Path) -> str:
    """Why a file or folder that was named or seen is not used."""
    if path.is_symlink():
        return "a link that leads nowhere"
    return "a folder that cannot be read" if path.is_dir() else "no such file"


def _kind(reason: str) -> str:
    return next((kind for words, kind in KINDS.items() if words in reason), "unusable")


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _histogram(seconds: npt.NDArray[np.float32]) -> dict[str, int]:
    edges = [*DURATION_EDGES_SECONDS, np.inf]
    counts = np.histogram(seconds, edges)[0].tolist()
    names = [f"{low} to {high} s" for low, high in pairwise(DURATION_EDGES_SECONDS)]
    return dict(zip([*names, f"{DURATION_EDGES_SECONDS[-1]} s or more"], counts, strict=True))


def _notes(index: VideoIndex, good: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    with np.errstate(divide="ignore", invalid="ignore"):
        by_frames = np.where(index.fps > 0, index.num_frames / index.fps, 0)
    tolerance = np.maximum(DURATION_TOLERANCE_SECONDS, DURATION_TOLERANCE_SHARE * by_frames)
    wrong_duration = np.abs(by_frames - index.duration_seconds) > tolerance
    for place in np.flatnonzero(good).tolist():
        path, pixel_format = index.paths[place], index.names[index.pixel_format[place]]
        if index.rotation[place]:
            yield Finding(path=path, kind="rotated", reason=f"by {index.rotation[place]} degrees")
        if index.interlaced[place]:
            yield Finding(path=path, kind="interlaced", reason="its frames hold two fields each")
        if pixel_format not in USUAL_PIXEL_FORMATS:
            yield Finding(path=path, kind="pixel format", reason=pixel_format)
        if wrong_duration[place]:
            stated = f"{index.duration_seconds[place]:.2f} s in the header"
            actual = f"{index.num_frames[place]} frames at {index.fps[place]:.2f}/s are {by_frames[place]:.2f} s"
            yield Finding(path=path, kind="duration", reason=f"{stated}, but {actual}")


def _duplicates(index: VideoIndex, good: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """Files with the content of an earlier one. Few files are read whole: those of equal size, beginning and end."""
    sizes, how_many = np.unique(index.size[good], return_counts=True)
    places = np.flatnonzero(good & np.isin(index.size, sizes[how_many > 1])).tolist()
    alike = [[index.paths[place] for place in places]]
    for whole in (False, True):
        groups: dict[bytes, list[str]] = defaultdict(list)
        for path in (path for group in alike for path in group):
            digest = _digest(index.root / path, whole=whole)
            if digest is not None:
                groups[digest].append(path)
        alike = [group for group in groups.values() if len(group) > 1]
    for first, *others in alike:
        for path in others:
            yield Finding(path=path, kind="duplicate", reason=f"same content as {first}")


def _digest(path: Path, *, whole: bool) -> bytes | None:
    """Hash of a file's size and content, or of its ends; None where it cannot be read, a problem of its own."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "big"))
            digest.update(file.read(END_BYTES))
            if not whole:
                file.seek(max(0, size - END_BYTES))
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
