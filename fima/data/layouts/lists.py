"""Official list files: finding and reading them, and joining what they name with what is on the disk."""

import json
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

from fima.data.layouts.files import Files
from fima.data.layouts.splits import leaked_links, one_sided_classes
from fima.data.layouts.video_list import Request, Video, VideoList, none_there, noted
from fima.errors import DataError

LIST_FOLDERS = ("anno", "annotations", "labels", "splits", "ucfTrainTestlist", "testTrainMulti_7030_splits", ".")
OF_LISTS = re.compile(r"(?!\.).*(anno|label|list|split)", re.IGNORECASE)
"""Names of other folders of lists, or of archives of them that were unpacked into folders of their own."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a list."""

    keys: tuple[str, ...]
    """What its file may be called, as `index_files` does; the first that is there counts."""
    shown: str
    """What to call it where it is missing."""
    label: int | None
    split: str
    """`train`, `test`, or anything else for neither."""


def list_places(root: Path, annotations: Path | None) -> list[Path]:
    """Return the folders where list files may lie: the annotations, or usual places below the root."""
    top, names = (root, LIST_FOLDERS) if annotations is None else (annotations, LIST_FOLDERS[::-1])
    others = [entry.name for entry in os.scandir(top) if OF_LISTS.match(entry.name)] if top.is_dir() else []
    deeper = [f"{other}/{name}" for other in sorted(others) for name in LIST_FOLDERS[::-1]]
    return [top / name for name in (*names, *deeper) if (top / name).is_dir()]


def list_folder(root: Path, annotations: Path | None, patterns: Iterable[str]) -> Path | None:
    """Return the first of these places that holds files of one of the patterns; None for a root that is no folder."""
    places = list_places(root, annotations) if root.is_dir() else []
    return next((place for place in places if any(any(place.glob(pattern)) for pattern in patterns)), None)


def has_lists(patterns: Iterable[str], root: Path, annotations: Path | None) -> bool:
    """Whether a root is a folder with such files."""
    return list_folder(root, annotations, patterns) is not None


def require_list_folder(request: Request, patterns: Sequence[str]) -> Path:
    """Return the same for a root that was recognised by it."""
    folder = list_folder(request.root, request.annotations, patterns)
    assert folder is not None, patterns
    return folder


def require_list_file(path: Path, pattern: str) -> Path:
    """Return the path of a split file. Raises DataError, with those that are there, where it is not."""
    if not path.is_file():
        there = ", ".join(sorted(other.name for other in path.parent.glob(pattern) if other.name[0] != "."))
        raise DataError(f"{path}: no such split file; {path.parent} has {there}")
    return path


def numbered_lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines that are not empty, each with where it is: "FILE, line N". Raises DataError as `read_text`."""
    lines = read_text(path).splitlines()
    return [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def read_text(path: Path) -> str:
    """Return a text file in UTF-8, or in UTF-16 by its byte order mark. Raises DataError where it cannot be read."""
    try:
        return path.read_text(encoding=encoding_of(path))
    except (OSError, UnicodeDecodeError) as error:
        remedy = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{path}: cannot be read ({error}){remedy}") from error


def encoding_of(path: Path) -> str:
    """Return UTF-16 where a file begins with its byte order mark, as Excel's "Unicode text" does, or else UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Return what a JSON file holds. Raises DataError where it cannot be read."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from None


def read_json_entries(path: Path, *fields: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a JSON list, each with where it is: "FILE, entry N".

    Raises DataError where it cannot be read, or is not a list of objects with these fields.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(
            f"{path}: expected a list of objects with {', '.join(fields)}, found a {type(content).__name__}"
        )
    entries = [(f"{path}, entry {number}", entry) for number, entry in enumerate(content, start=1)]
    for where, entry in entries:
        if not isinstance(entry, dict) or any(name not in entry for name in fields):
            raise DataError(f"{where}: expected an object with {', '.join(fields)}, found {str(entry)[:80]}")
    return entries


def inside(name: str, where: str) -> PurePosixPath:
    """Return a listed path; DataError for one that does not lie below the folder of videos, or is none of a file."""
    path = PurePosixPath(name)
    if not path.name:
        raise DataError(f"{where}: {name!r} is not the path of a video")
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).anchor:
        remedy = "list paths below it, or, in a table that is itself the data, absolute ones"
        raise DataError(f"{where}: {name} points outside the folder of videos; {remedy}")
    return path


def plain_name(name: object, where: str) -> str:
    """Return a listed name of a file without its extension. Raises DataError for one with a path, or no name."""
    text = str(name) if isinstance(name, str | int) else ""
    if not text or PurePosixPath(text).name != text or PureWindowsPath(text).anchor:
        raise DataError(f"{where}: {name!r} is not the name of a video; expected one without folders")
    return text


def index_files(videos: Iterable[Path]) -> dict[str, Path]:
    """Return files by path, with and without extension: re-encoded videos often have another one.

    And wherever they lie, as `//NAME`, and as `//CLASS/NAME` in a folder of that name; of several the first.
    """
    index: dict[str, Path] = {}
    for path in videos:
        whole = path.as_posix()
        bare = whole.removesuffix(path.suffix)
        folder, _, name = bare.rpartition("/")
        for key in (bare, f"//{name}", f"//{folder.rpartition('/')[2].replace('_', ' ')}/{name}"):
            index.setdefault(key, path)
        index[whole] = path
    return index


def path_entry(folder: Path, path: PurePosixPath, label: int | None, split: str) -> Entry:
    """Return the entry of a file that is listed by its path below a folder, or lies deeper in a folder of its class."""
    in_class = f"//{path.parent.name.replace('_', ' ')}/{path.stem}"
    keys = (path.as_posix(), path.with_suffix("").as_posix(), in_class)
    return Entry(keys=keys, shown=str(folder / path), label=label, split=split)


def join(
    request: Request,
    files: Files,
    entries: Sequence[Entry],
    classes: list[str],
    *,
    layout: str,
    expected: int | None = None,
    folder_labels: Mapping[str, int] = MappingProxyType({}),
) -> VideoList:
    """Join the lines of all lists with the files on the disk. Raises DataError where no video of the split is there.

    The split `all` is every file on the disk, and its missing ones are those that any list names. `layout` says in
    words how the folder was read, `expected` is the official number of videos of the split, and files without a label
    in a list have that of the folder that they lie in, if any.
    """
    folder, videos = files.root, files.videos
    everything = request.split == "all"
    lines = _with_files(entries, videos, folder_labels)
    # The first line that names a file, of any split; and that of each different video of this split, there or not.
    named = {path: entry for entry, path in reversed(lines) if path is not None}
    own = [(path or entry.keys, entry) for entry, path in lines if request.split in (entry.split, "all")]
    listed: dict[Path | tuple[str, ...], Entry] = {}
    for video, entry in own:
        listed.setdefault(video, entry)
    missing = [entry.shown for video, entry in listed.items() if not isinstance(video, Path)]
    if len(missing) == len(listed) and not (everything and videos):
        raise DataError(f"{folder}: {none_there(request.split, len(listed), missing)}")

    def label_of(path: Path) -> int | None:
        labels = (named[path].label if path in named else None, *map(folder_labels.get, path.parts[:-1]))
        return next((label for label in labels if label is not None), None)

    labels = [{entry.label for entry in entries if entry.split == split} for split in ("train", "test")]
    sides = [[classes[label] for label in each if label is not None] for each in labels]
    repeated = [entry.shown for video, entry in own if listed[video] is not entry]
    leaked = [
        str(folder / path)
        for entry, path in lines
        if path is not None and {named[path].split, entry.split} == {"train", "test"}
    ]
    odd = noted(repeated, "video", " listed more than once")
    odd += noted(leaked, "video", " listed for training and for testing")
    return VideoList(
        videos=[Video(folder / path, label_of(path)) for path in videos if everything or path in listed],
        classes=classes,
        root=request.root,
        split=request.split,
        layout=layout,
        missing=missing,
        unlisted=[] if everything else [str(folder / path) for path in videos if path not in named],
        num_listed=len(listed) or None,
        expected=expected,
        notes=[
            *(f"{layout}: {note}" for note in odd),
            *leaked_links(files.same, {path: entry.split for path, entry in named.items()}, "test"),
            *files.notes(with_lists=False),
            *one_sided_classes(*sides),
        ],
    )


def _with_files(
    entries: Sequence[Entry], videos: Sequence[Path], classes: Collection[str]
) -> list[tuple[Entry, Path | None]]:
    """Return the entries with their files: by name alone where no video lies in the folder of a class."""
    index = index_files(videos)
    is_flat = bool(classes) and not any(name in classes for path in videos for name in path.parts[:-1])

    def file_of(entry: Entry) -> Path | None:
        keys = (*entry.keys, f"//{entry.keys[-1].rpartition('/')[2]}") if is_flat else entry.keys
        return next((index[key] for key in keys if key in index), None)

    return [(entry, file_of(entry)) for entry in entries]


def expected_videos(request: Request, official: Mapping[str, int], *, certain: bool) -> int | None:
    """Return the official number of videos of a split, for a data set that is certain to be the official one."""
    return official.get(request.split) if certain or request.named else None


def class_folder_parent(root: Path, candidates: Sequence[str], classes: Collection[str]) -> Path:
    """Return the folder below the root that holds class folders, or the first one that is there, or the root."""
    places = [*(root / name for name in candidates if (root / name).is_dir()), root]
    return next((place for place in places if any((place / name).is_dir() for name in classes)), places[0])
