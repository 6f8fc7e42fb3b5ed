"""The files below a folder."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fima.errors import DataError

# fmt: off
VIDEO_EXTENSIONS = frozenset({
    ".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".hevc", ".ivf", ".m1v",
    ".m2p", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv",
    ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv",
    ".wtv", ".xvid", ".y4m",
})
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Files:
    """What lies below a folder, as sorted paths relative to it."""

    videos: list[Path]
    """Files with the extension of a video."""
    others: list[Path]
    """The other files."""
    missing: list[str]
    """Broken links to videos, and folders that cannot be read."""


def find_files(root: Path) -> Files:
    """Walk a folder. Hidden files and folders are passed over, links are followed.

    Raises:
        DataError: no video below the folder.
    """
    videos: list[str] = []
    others: list[str] = []
    missing: list[str] = []
    visited: set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(root / folder)
        if real in visited:
            continue
        visited.add(real)
        try:
            # Entries of scandir know their kind: no call to the file system per video, of which there may be 240,000.
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            missing.append(str(error.filename))
            continue
        for entry in entries:
            relative = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():  # noqa: PTH112 - takes the entry itself
                pending.append(f"{relative}/")
            elif not is_video(entry.name):
                others.append(relative)
            elif not entry.is_symlink() or os.path.isfile(entry):  # noqa: PTH113
                videos.append(relative)
            else:
                missing.append(str(root / relative))
    files = Files(videos=_sorted(videos), others=_sorted(others), missing=sorted(missing))
    if not files.videos:
        raise DataError(_nothing_found(root, files))
    return files


def is_video(name: str) -> bool:
    """Whether a file name has the extension of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS  # noqa: PTH122 - on as many names as there are files


def _sorted(names: list[str]) -> list[Path]:
    return [Path(name) for name in sorted(names, key=lambda name: name.split("/"))]


def _nothing_found(root: Path, files: Files) -> str:
    if files.missing:
        return f"{root}: no video that can be read; {len(files.missing)} not there, such as {files.missing[0]}"
    if not files.others:
        return f"{root}: the folder is empty; give the folder that holds the videos"
    counts = Counter(path.suffix.lower() or "no extension" for path in files.others)
    found = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5))
    return f"{root}: no video among {len(files.others)} files ({found}); known are .avi, .mp4, .mkv, .webm, .mov, …"
