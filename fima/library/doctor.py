"""Which videos of a folder cannot be used or need care, and why."""

import hashlib
import os
import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fima.data.datasets import VideoList
from fima.data.decode.limits import USUAL_LIMITS
from fima.data.layouts.video_list import relative_name
from fima.library.index import FROM_START, VideoIndex

DURATION_EDGES_SECONDS = (0, 1, 2, 5, 10, 20, 60, 300, 3600)
USUAL_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
ASPECT_TOLERANCE = 0.01
WIDE_ASPECT = 2.0
"""Of frames that are wider or higher, an evaluation sees less than two fifths."""
DURATION_TOLERANCE_SECONDS = 1.0
DURATION_TOLERANCE_SHARE = 0.1
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
    "its header says": "wrong header",
}
"""Kinds of problems by what their reason says; the first that fits."""

ADVICE = {
    "empty file": "copy or download it again",
    "no video stream": "sound only, or no video at all: exclude it",
    "no frame": "copy or download it again",
    "truncated": "copy or download it again",
    "takes too long": "try again on a less busy machine, or with a longer --timeout; else exclude it",
    "cannot be read": "change its permissions",
    "cannot be opened": "not a video, or its header is missing: copy or download it again",
    "damaged": "copy or download it again, or exclude it",
    "wrong header": "`fima prepare` rewrites it",
    "frame size changes": "split it where its size changes, or exclude it",
    "not a file": "a pipe, a socket or a device: take it out of the folder",
    "not there": "fix the link, the permissions or the list that names it, or leave it out",
    "unusable": "exclude it",
    "duplicate": "keep one of each, above all where one is for training and one for testing",
    "rotated": "training ignores rotation metadata: `fima prepare` rotates the frames",
    "interlaced": "its frames hold two fields each: `fima prepare` deinterlaces it",
    "pixel format": "decodes more slowly than yuv420p: `fima prepare` converts it",
    "HDR": "its pixels are read as they are stored, paler than players show them: keep it apart from other videos, or "
    "have ffmpeg or a video editor turn it to SDR",
    "several streams": "one of them is read; if it is the wrong one, keep only the right one",
    "pixels not square": "training uses pixels as stored: `fima prepare` makes them square",
    "wide frames": "evaluation looks at the centred square, and what matters may lie beside it: --num-crops 3 takes "
    "both ends as well (`fima embed`: --crops 3), or cut the frames",
    "large frames": "training skips it, but for a larger --data.max-frame-pixels: `fima prepare` makes them smaller",
    "one frame": "a still picture, without any motion: move it out of the folder, or list it for --data.exclude",
    "key frames": "every clip is decoded from the beginning, slowly: `fima prepare` rewrites it",
    "duration": "differs from that of its frames: cut off, or longer sound; training uses the frames",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about one file."""

    path: str
    """The file, relative to the folder; absolute where it lies elsewhere."""
    kind: str
    """What it is, in one or two words: a key of `ADVICE`."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What lies in a folder of videos, and what is wrong with it.

    `num_videos` and `total_bytes` are of all of them, the other counts of those that can be used.
    """

    root: str
    layout: str
    decoded: bool
    """Whether every video was decoded to its end."""
    num_videos: int
    total_bytes: int
    total_seconds: float
    total_frames: int
    codecs: dict[str, int]
    pixel_formats: dict[str, int]
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

    def quarantine(self) -> list[str]:
        """The unusable videos that are there, relative to the folder."""
        return [finding.path for finding in self.problems if finding.kind != "not there"]


def diagnose(videos: VideoList, index: VideoIndex, *, decoded: bool) -> Diagnosis:
    """Gather what an index tells about the videos of a folder, and compare the content of files of the same size.

    `decoded`: whether the index was made with every video decoded.
    """
    database = index.database
    num_videos, total_bytes, total_seconds, total_frames = database.execute(
        "SELECT count(*), total(size), total(duration_seconds), total(num_frames) FROM videos"
    ).fetchone()
    problems = [
        Finding(
            path=os.fsdecode(path),
            kind=next((kind for words, kind in KINDS.items() if words in reason), "unusable"),
            reason=reason,
        )
        for path, reason in database.execute("SELECT path, problem FROM videos WHERE problem NOTNULL ORDER BY path")
    ]
    problems += [
        Finding(path=relative_name(Path(path), index.root), kind="not there", reason=why_missing(Path(path)))
        for path in videos.missing
    ]
    notes = [
        Finding(path=os.fsdecode(row["path"]), kind=kind, reason=reason)
        for row in database.execute("SELECT * FROM videos WHERE problem ISNULL ORDER BY path")
        for kind, reason in _reasons(row)
    ]
    rates = _counts(database, "round(fps, 2)")
    return Diagnosis(
        root=str(index.root),
        layout=videos.layout,
        decoded=decoded,
        num_videos=num_videos,
        total_bytes=int(total_bytes),
        total_seconds=round(total_seconds, 3),
        total_frames=int(total_frames),
        codecs=_counts(database, "codec"),
        pixel_formats=_counts(database, "pixel_format"),
        sizes=_counts(database, "width || 'x' || height"),
        frame_rates={f"{float(rate):g}": count for rate, count in rates.items()},
        durations=_histogram(database),
        problems=problems,
        notes=[*notes, *_duplicates(index)],
        remarks=videos.notes,
    )


def why_missing(path: Path) -> str:
    """Why a file or folder that was named or seen is not used."""
    if path.is_symlink():
        return "a link that leads nowhere"
    return "a folder that cannot be read" if path.is_dir() else "no such file"


def _counts(database: sqlite3.Connection, value: str) -> dict[str, int]:
    """How many usable videos have each value, the most frequent one first."""
    query = f"SELECT {value}, count(*) FROM videos WHERE problem ISNULL GROUP BY 1 ORDER BY 2 DESC"
    return dict(database.execute(query).fetchall())


def _histogram(database: sqlite3.Connection) -> dict[str, int]:
    names = [f"{low} to {high} s" for low, high in pairwise(DURATION_EDGES_SECONDS)]
    counts = dict.fromkeys([*names, f"{DURATION_EDGES_SECONDS[-1]} s or more"], 0)
    names = list(counts)
    for (seconds,) in database.execute("SELECT duration_seconds FROM videos WHERE problem ISNULL"):
        counts[names[max(0, bisect_right(DURATION_EDGES_SECONDS, seconds) - 1)]] += 1
    return counts


def _reasons(row: sqlite3.Row) -> Iterator[tuple[str, str]]:
    """What needs care about one video: kind and particulars."""
    turned = [f"by {row['rotation']} degrees"] if row["rotation"] else []
    if turned or row["mirrored"]:
        yield "rotated", ", then ".join([*(["mirrored left to right"] if row["mirrored"] else []), *turned])
    if row["interlaced"]:
        yield "interlaced", "its frames hold two fields each"
    if row["pixel_format"] not in USUAL_PIXEL_FORMATS:
        yield "pixel format", row["pixel_format"]
    if row["hdr"]:
        yield "HDR", row["hdr"]
    if abs(row["pixel_aspect"] - 1) > ASPECT_TOLERANCE:
        shown = f"{row['width'] * row['pixel_aspect']:.0f}x{row['height']}"
        yield "pixels not square", f"{row['width']}x{row['height']}, to be shown as {shown}"
    if max(row["width"], row["height"]) > WIDE_ASPECT * min(row["width"], row["height"]):
        yield "wide frames", f"{row['width']}x{row['height']}"
    if row["width"] * row["height"] > USUAL_LIMITS.max_frame_pixels:
        yield "large frames", f"{row['width']}x{row['height']}, above {USUAL_LIMITS.max_frame_pixels:,} pixels"
    if row["num_frames"] == 1:
        yield "one frame", "its clips repeat it"
    if row["chosen"]:
        yield "several streams", f"video stream {row['chosen']} is read"
    if row["decoded"] == FROM_START:
        yield "key frames", "packets marked as key frames are not key frames"
    seconds = row["num_frames"] / row["fps"] if row["fps"] > 0 else 0.0
    if abs(seconds - row["duration_seconds"]) > max(DURATION_TOLERANCE_SECONDS, DURATION_TOLERANCE_SHARE * seconds):
        actual = f"{row['num_frames']} frames at {row['fps']:.2f}/s are {seconds:.2f} s"
        yield "duration", f"{row['duration_seconds']:.2f} s in the header, but {actual}"


def _duplicates(index: VideoIndex) -> Iterator[Finding]:
    """Files with the content of an earlier one. Few files are read whole: those of equal size, beginning and end."""
    sizes = "SELECT size FROM videos WHERE problem ISNULL GROUP BY size HAVING count(*) > 1"
    rows = index.database.execute(f"SELECT path FROM videos WHERE problem ISNULL AND size IN ({sizes}) ORDER BY path")
    alike = [[os.fsdecode(path) for (path,) in rows]]
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
            hashlib.file_digest(file, lambda: digest)
    except OSError:
        return None
    return digest.digest()
