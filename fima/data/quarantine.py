"""Lists of videos that are to be passed over, one path a line.

Paths are relative to the folder of the videos. Lines that begin with `#` and empty lines are comments. A path that does
not fit into a line as it is (one with a line break, with blanks at an end, beginning with `#` or `"`, or not in UTF-8)
is written as a JSON string, in double quotes.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from fima.data.datasets import VideoList
from fima.data.layouts.files import is_video
from fima.data.layouts.lists import read_text
from fima.data.layouts.video_list import counted, relative_name
from fima.errors import DataError
from fima.files.atomic import write_file

HEADER = "# Videos that `fima doctor` found unusable: one path a line, relative to the folder of the videos.\n"


def write_quarantine(file: Path, paths: Iterable[str]) -> None:
    """Write such a list, sorted. Raises ConfigError where the file cannot be written."""
    lines = "".join(f"{_line(path)}\n" for path in sorted(paths))
    write_file(file, HEADER + lines)


def read_quarantine(file: Path) -> set[str]:
    """The paths of such a list. Raises DataError, which names the line, where the file cannot be read."""
    paths: set[str] = set()
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            path = json.loads(text) if text.startswith('"') else text
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number}: begins with a quote but is not a JSON string") from error
        paths.add(str(path))
    return paths


def exclude(videos: VideoList, file: Path, *, libraries: Sequence[Callable[[], VideoList]] = ()) -> VideoList:
    """The videos that a list in a file does not name. Raises DataError where it cannot be read, or leaves no video.

    An entry is a path relative to `videos.root`, with either kind of slash; or one that leads there, absolute or with
    the name of that folder; or a name that only one video has, with, without or with another extension. `libraries`
    list all videos of the data set, where `videos` are a part, and of others: what one of them has is no unknown name.
    """
    entries = read_quarantine(file)
    excluded, unknown, ambiguous = _matches(videos, entries)
    for library in libraries:
        if unknown:
            _, unknown, _ = _matches(library(), unknown)
    kept = [video for video in videos.videos if relative_name(video.path, videos.root) not in excluded]
    if not kept:
        raise DataError(f"{file}: excludes all {len(videos.videos)} videos of {videos.root}")
    notes = [
        f"{file}: {len(which)} of {len(entries)} entries {how}, such as {sorted(which)[0]!r}"
        for how, which in {"name no video": unknown, "name several videos, so none is excluded": ambiguous}.items()
        if which
    ]
    layout = f"{videos.layout}; {counted(len(videos.videos) - len(kept), 'video')} excluded"
    return replace(videos, videos=kept, layout=layout, notes=[*videos.notes, *notes])


def _matches(videos: VideoList, entries: Iterable[str]) -> tuple[set[str], set[str], set[str]]:
    """The relative names that entries mean, the entries that mean none, and those that mean several."""
    names = {relative_name(video.path, videos.root) for video in videos.videos}
    short: dict[str, set[str]] = defaultdict(set)
    for name in names:
        path = PurePath(name)
        for key in {str(path.with_suffix("")), path.name, path.stem}:
            short[key].add(name)
    folders = {videos.root.absolute(), videos.root.resolve()}
    found: set[str] = set()
    unknown: set[str] = set()
    ambiguous: set[str] = set()
    for entry in entries:
        spellings = list(_spellings(entry, folders))
        exact = next((name for name in spellings if name in names), None)
        bare = [str(PurePath(name).with_suffix("")) for name in spellings if is_video(name)]
        near = next((short[name] for name in [*spellings, *bare] if name in short), set())
        meant = near if exact is None else {exact}
        if len(meant) == 1:
            found |= meant
        else:
            (ambiguous if meant else unknown).add(entry)
    return found, unknown, ambiguous


def _spellings(entry: str, folders: Iterable[Path]) -> Iterator[str]:
    """What a path may be called relative to a folder, given in several ways."""
    yield entry
    path = os.path.normpath(entry.replace("\\", "/"))
    yield path
    for folder in folders:
        if path.startswith(f"{folder}/"):
            yield path.removeprefix(f"{folder}/")
    names = {folder.name for folder in folders} - {""}
    parts = path.split("/")
    for place, part in enumerate(parts[:-1]):
        if part in names:
            yield "/".join(parts[place + 1 :])


def _line(path: str) -> str:
    plain = path.strip() == path and path.isprintable() and not path.startswith(("#", '"'))
    return path if plain else json.dumps(path)
