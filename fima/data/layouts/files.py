"""The files below a folder."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fima.data.decode.frame_series import IMAGE_EXTENSIONS, NUMBERED, frame_series
from fima.data.layouts.video_list import counted
from fima.errors import DataError
from fima.files.output import OUTPUT_MARKER, mark_files, marked_outputs

# fmt: off
VIDEO_EXTENSIONS = frozenset({
    ".264", ".265", ".3g2", ".3gp", ".amv", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264",
    ".h265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov",
    ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".ogx", ".qt", ".rm",
    ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
})
# fmt: on
LIST_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".parquet", ".yaml", ".yml", ".md"})
MOST_SUFFIXES = 5


@dataclass(frozen=True, kw_only=True)
class Files:
    """What lies below a folder, as sorted paths relative to it."""

    root: Path
    """The folder."""
    videos: list[Path]
    """Files with the extension of a video, and folders of numbered pictures, one a frame."""
    others: list[Path]
    """The other files."""
    missing: list[str]
    """Broken links to videos, and folders that cannot be read."""
    frame_folders: list[Path] = field(default_factory=list)
    """Those of the videos that are folders of pictures."""
    outputs: list[Path] = field(default_factory=list)
    """Folders and files that fima wrote, which are passed over."""

    def notes(self, *, with_lists: bool = True) -> list[str]:
        """Say what was passed over, and what was taken for a video without being a file; list files if `with_lists`."""
        others = [path for path in self.others if with_lists or path.suffix.lower() not in LIST_SUFFIXES]
        found = []
        if others:
            found.append(f"{counted(len(others), 'file')} passed over: {_by_suffix(others)}")
        if self.frame_folders:
            folders = counted(len(self.frame_folders), "folder")
            found.append(f"{folders} of pictures read as videos, a frame each, such as {self.frame_folders[0]}")
        if self.outputs:
            results = counted(len(self.outputs), "result")
            found.append(f"{results} of fima passed over (marked by {OUTPUT_MARKER}), such as {self.outputs[0]}")
        return found


def find_files(root: Path) -> Files:
    """Walk a folder. Hidden files, hidden folders and results of fima are passed over, links are followed.

    A folder of numbered pictures without a video next to them is a video, where no videos lie at other depths only.

    Raises:
        DataError: no video below the folder.
    """
    videos: list[str] = []
    others: list[str] = []
    missing: list[str] = []
    outputs: list[str] = []
    pictures: dict[str, list[str]] = {}
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
        marked = marked_outputs(root / folder) if any(entry.name == OUTPUT_MARKER for entry in entries) else None
        if folder and marked == frozenset():
            outputs.append(folder)
            continue
        before = len(videos)
        here: list[str] = []
        for entry in entries:
            relative = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                continue
            if marked and entry.name in marked:
                outputs.append(relative)
                continue
            if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():  # noqa: PTH112 - takes the entry itself
                pending.append(f"{relative}/")
            elif not is_video(entry.name):
                (here if _suffix(entry.name) in IMAGE_EXTENSIONS else others).append(relative)
            elif not entry.is_symlink() or os.path.isfile(entry):  # noqa: PTH113
                videos.append(relative)
            else:
                missing.append(str(root / relative))
        if here and len(videos) == before:
            pictures[folder] = here
        else:
            others += here
    frame_folders = _frame_folders(pictures, {name.count("/") for name in videos}, others)
    files = Files(
        root=root,
        videos=_sorted([*videos, *frame_folders]),
        others=_sorted(others),
        missing=sorted(missing),
        frame_folders=_sorted(frame_folders),
        outputs=_sorted(outputs),
    )
    if not files.videos:
        raise DataError(_nothing_found(files))
    return files


def _frame_folders(pictures: Mapping[str, list[str]], depths: Collection[int], others: list[str]) -> list[str]:
    """Return the folders that are videos, given the depths of files that are; other pictures go to `others`."""
    found: list[str] = []
    for folder, paths in pictures.items():
        frames = {f"{folder}{name}" for name in frame_series(path.rpartition("/")[2] for path in paths)}
        if frames and (not depths or folder.count("/") - 1 in depths):
            found.append(folder.rstrip("/") or ".")
        else:
            frames = set()
        others += [path for path in paths if path not in frames]
    return found


def has_videos(folder: Path) -> bool:
    """Whether videos lie in a folder or in its subfolders that are no results of fima."""
    for place in (folder, *(path for path in folder.glob("*") if path.is_dir())):
        marked = marked_outputs(place)
        if marked != frozenset():
            if any(is_video(path.name) and path.name not in (marked or ()) for path in place.glob("*")):
                return True
        elif place == folder:
            return False
    return False


def is_video(name: str) -> bool:
    """Whether a file name has the extension of a video."""
    return _suffix(name) in VIDEO_EXTENSIONS


def mark_picture(path: Path) -> None:
    """Mark a picture that is going to be written as a result, where its name could be that of a frame of a video.

    Raises:
        OSError: its folder cannot be written.
    """
    if NUMBERED.fullmatch(path.name):
        mark_files(path.parent, [path.name])


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - on as many names as there are files


def _by_suffix(paths: Iterable[Path]) -> str:
    counts = Counter(path.suffix.lower() or "no extension" for path in paths).most_common()
    rest = sum(count for _, count in counts[MOST_SUFFIXES:])
    shown = ", ".join(f"{count:,} {suffix}" for suffix, count in counts[:MOST_SUFFIXES])
    return shown + (f", {rest:,} others" if rest else "")


def _sorted(names: list[str]) -> list[Path]:
    return [Path(name) for name in sorted(names, key=lambda name: name.split("/"))]


def _nothing_found(files: Files) -> str:
    root = files.root
    if files.missing:
        return f"{root}: no video that can be read; {len(files.missing)} not there, such as {files.missing[0]}"
    if files.outputs and not files.others:
        return f"{root}: holds results of fima only, such as {files.outputs[0]}; give the folder that holds the videos"
    if not files.others:
        return f"{root}: the folder is empty; give the folder that holds the videos"
    found = _by_suffix(files.others)
    return f"{root}: no video among {len(files.others)} files ({found}); known are .avi, .mp4, .mkv, .webm, .mov, …"
