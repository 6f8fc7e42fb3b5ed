"""The files below a folder."""

import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fima.data.decode.frame_series import IMAGE_EXTENSIONS, NUMBERED, OTHER_SIGNALS, frame_series
from fima.data.layouts.video_list import counted, noted
from fima.errors import DataError
from fima.files.output import OUTPUT_MARKER, mark_files, marked_outputs

# fmt: off
VIDEO_EXTENSIONS = frozenset({
    ".264", ".265", ".3g2", ".3gp", ".amv", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264",
    ".h265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov",
    ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".ogx", ".qt", ".rm",
    ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
})
SYSTEM_FOLDERS = frozenset({
    "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "lost+found", "__MACOSX", "@eaDir",
    "@Recently-Snapshot", "@Recycle", "#recycle", "#snapshot",
})
# fmt: on
"""What systems and network disks put beside files: what was deleted, older versions, small previews."""
OF_PICTURES = re.compile(r"frame|image|img|jpe?g|png|picture|rgb", re.IGNORECASE)
"""In the names of folders beside those of the videos that their pictures are frames of, or beside such a video."""
SHOWN = re.compile(rf"^(?!.*(?:{OTHER_SIGNALS.pattern})).*(?:{OF_PICTURES.pattern}|colou?r|video)", re.IGNORECASE)
"""The names of folders beside those of optical flow, depth or masks of the same videos."""
NEITHER = re.compile(rf"^(?!{SHOWN.pattern}|.*(?:{OTHER_SIGNALS.pattern}))", re.IGNORECASE)
"""The names of classes; where one has clips of the same names as those of signals, these are classes, too."""
AXES = frozenset("uvxy")
FOLDERS_PER_STRAY_VIDEO = 10
"""So many folders of pictures at one depth are no previews of each video at other depths."""
LIST_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".parquet", ".yaml", ".yml", ".md"})
PREPARE_RECORD = "prepared.jsonl"
"""Where `fima prepare` writes, in the folder of the videos that it rewrites, which is made from what."""
MOST_SUFFIXES = 5


@dataclass(frozen=True, kw_only=True)
class Files:
    """What lies below a folder, as sorted paths relative to it."""

    root: Path
    videos: list[Path]
    """Files with the extension of a video, and folders of numbered pictures, one a frame."""
    others: list[Path]
    missing: list[str]
    """Broken links to videos, and folders that cannot be read."""
    frame_folders: list[Path] = field(default_factory=list)
    """Those of the videos that are folders of pictures."""
    twice: list[Path] = field(default_factory=list)
    """Folders of frames of videos that are there as files, which are passed over."""
    signals: list[Path] = field(default_factory=list)
    """Folders of optical flow, depth or masks of videos that are there, which are passed over."""
    outputs: list[Path] = field(default_factory=list)
    """Folders and files that fima wrote, which are passed over."""
    same: list[list[Path]] = field(default_factory=list)
    """The videos that are one file by several names, links, each with all its names."""
    again: list[Path] = field(default_factory=list)
    """Links to folders that are read under another name."""

    def notes(self, *, with_lists: bool = True) -> list[str]:
        """Say what was passed over, and what was taken for a video without being a file; list files if `with_lists`."""
        others = [path for path in self.others if with_lists or path.suffix.lower() not in LIST_SUFFIXES]
        others = [path for path in others if path.name != PREPARE_RECORD]
        return [
            *([f"{counted(len(others), 'file')} passed over: {_by_suffix(others)}"] if others else []),
            *noted(self.frame_folders, "folder", " of pictures read as videos, a frame each"),
            *noted(self.twice, "folder", " of pictures passed over as frames of videos that are there, too"),
            *noted(self.signals, "folder", " of flow, depth or masks passed over beside the frames of the same videos"),
            *noted(self.outputs, "result", f" of fima passed over (marked by {OUTPUT_MARKER})"),
            *noted(self.again, "link", " to folders that are read anyway"),
        ]


def find_files(root: Path) -> Files:
    """Walk a folder. What is hidden, of a system or a result of fima is passed over, links are followed.

    A folder of numbered pictures without a video next to them is a video, where videos lie at other depths only if they
    are few. One with the name of a video next to itself, or as `frames/a` with a `videos/a.mp4`, or `a/frames` with the
    single video `a/b.mp4`, holds frames of that video, which would be there twice, and is passed over. So is optical
    flow, depth or masks of a video: `flow_x/a` with a `frames/a`, or `a/depth` with an `a/rgb`, unless a class
    beside them has an `a`, too.
    Raises DataError where there is no video.
    """
    found: dict[str, list[str]] = defaultdict(list)
    inodes: dict[str, int] = {}
    pictures: dict[str, list[str]] = {}
    for folder, entries in _walk(root, found):
        before = len(inodes)
        here: list[str] = []
        for entry in entries:
            relative = f"{folder}{entry.name}"
            if not is_video(entry.name):
                (here if _suffix(entry.name) in IMAGE_EXTENSIONS else found["others"]).append(relative)
            elif (inode := _inode(entry)) is not None:
                inodes[relative] = inode
            else:
                found["missing"].append(str(root / relative))
        if here and len(inodes) == before:
            pictures[folder] = here
        else:
            found["others"] += here
    _add_frame_folders(pictures, inodes, found)
    found["videos"] = [*inodes, *found["frame_folders"]]
    names = ("videos", "others", "frame_folders", "twice", "signals", "outputs", "again")
    same, missing = _same(root, inodes), sorted(found["missing"])
    files = Files(root=root, same=same, missing=missing, **{name: _sorted(found[name]) for name in names})
    if not files.videos:
        raise DataError(_nothing_found(files))
    return files


def _walk(root: Path, found: Mapping[str, list[str]]) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder with the files in it; links after the folders themselves, so that these keep their names.

    Notes in `found` folders that cannot be read ("missing"), results of fima ("outputs"), and other names of folders
    ("again").
    """
    visited: set[str] = set()
    pending, links = [""], list[str]()
    while pending or links:
        folder = (pending or links).pop()
        real = os.path.realpath(root / folder)
        if real in visited:
            found["again"].append(folder)
            continue
        visited.add(real)
        try:
            # Entries of scandir know their kind: no call to the file system per video, of which there may be 240,000.
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            found["missing"].append(str(error.filename))
            continue
        marked = marked_outputs(root / folder) if any(entry.name == OUTPUT_MARKER for entry in entries) else None
        if folder and marked == frozenset():
            found["outputs"].append(folder)
            continue
        files = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                continue
            if marked and entry.name in marked:
                found["outputs"].append(f"{folder}{entry.name}")
            elif os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():  # noqa: PTH112 - takes the entry itself
                (links if entry.is_symlink() else pending).append(f"{folder}{entry.name}/")
            else:
                files.append(entry)
        yield folder, files


def _inode(entry: os.DirEntry[str]) -> int | None:
    """Return the number of a file, or of that which a link leads to; None where a link leads to no file."""
    if not entry.is_symlink():
        return entry.inode()
    try:
        status = entry.stat()
    except OSError:
        return None
    return status.st_ino if stat.S_ISREG(status.st_mode) else None


def _same(root: Path, inodes: Mapping[str, int]) -> list[list[Path]]:
    """Return the names that are one file, given the number of each. Numbers tell files of one disk apart."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, inode in inodes.items():
        groups[inode].append(name)
    found = []
    for group in (group for group in groups.values() if len(group) > 1):
        one = [name for name in group if os.path.samefile(root / group[0], root / name)]  # noqa: PTH121
        found += [_sorted(one)] if len(one) > 1 else []
    return found


def _add_frame_folders(pictures: Mapping[str, list[str]], videos: Collection[str], found: dict[str, list[str]]) -> None:
    """Note which folders of pictures are videos, and which are of others; other pictures are other files."""
    files = [_parts(name) for name in videos] if pictures else []
    in_folder = Counter(parts[:-1] for parts in files)
    blanked = {key for parts in files for key in _blanked(parts) if key[-1] or in_folder[key[:-1]] == 1}
    whole, names = set(files), {folder: folder.rstrip("/") or "." for folder in pictures}
    places = {folder: _parts(name) if is_video(name) else tuple(name.split("/")) for folder, name in names.items()}
    num_at = Counter(map(len, places.values()))
    depths = {*map(len, files), *(depth for depth in num_at if num_at[depth] >= FOLDERS_PER_STRAY_VIDEO * len(files))}
    hidden = {folder: {*_blanked(_without_axes(parts), OTHER_SIGNALS)} for folder, parts in places.items()}
    of_signals = {key for keys in hidden.values() for key in keys}
    of_neither = (key for parts in places.values() for key in _blanked(parts, NEITHER) if key in of_signals)
    class_places = {key[: key.index("")] for key in of_neither}
    shown = blanked.union(*(_blanked(parts, SHOWN) for parts in places.values()))
    for folder, parts in places.items():
        frames = {f"{folder}{each}" for each in frame_series(path.rpartition("/")[2] for path in pictures[folder])}
        at_depth = len(parts) in depths
        kind = "frame_folders" if at_depth else "others"
        if parts in whole or (at_depth and not blanked.isdisjoint(_blanked(parts, OF_PICTURES))):
            kind = "twice"
        elif at_depth and any(key[: key.index("")] not in class_places for key in shown & hidden[folder]):
            kind = "signals"
        if frames and kind != "others":
            found[kind].append(names[folder])
        found["others"] += [path for path in pictures[folder] if kind != "frame_folders" or path not in frames]


def _without_axes(parts: Sequence[str]) -> list[str]:
    """Return the parts of `flow/x/clip` or `clip/flow/x` as those of `flow/clip` and `clip/flow`."""
    before = zip(parts, ["", *parts], strict=False)
    return [part for part, above in before if not (part in AXES and OTHER_SIGNALS.search(above))]


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a path, without the extension of a video."""
    return tuple(os.path.splitext(name)[0].split("/"))  # noqa: PTH122 - on as many names as there are files


def _blanked(parts: Sequence[str], pattern: re.Pattern[str] = re.compile("")) -> Iterator[tuple[str, ...]]:
    """Yield the parts with one of them, each that matches in turn, left blank."""
    return ((*parts[:place], "", *parts[place + 1 :]) for place, part in enumerate(parts) if pattern.search(part))


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
    """Mark a picture as a result, before it is written, where its name could be that of a frame. Raises OSError."""
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
    if marked_outputs(root) == frozenset():
        return f"{root}: results of fima, without a video; videos are given after the encoder, if there is one"
    if not files.others:
        return f"{root}: the folder is empty; give the folder that holds the videos"
    found = _by_suffix(files.others)
    return f"{root}: no video among {len(files.others)} files ({found}); known are .avi, .mp4, .mkv, .webm, .mov, …"
