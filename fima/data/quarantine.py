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
    entries, own = read_quarantine(file), _Names(videos)
    meant = {entry: name for entry in entries if (name := own.exact(entry)) is not None}
    others = [_Names(library()) for library in libraries] if len(meant) < len(entries) or len(libraries) > 1 else []
    elsewhere = {entry for entry in entries for other in others if other.exact(entry) and other.root != own.root}
    # What is the path of a video in another part, or in another set, is not the short name of one here.
    short = {entry for entry in entries if entry not in meant and not any(other.exact(entry) for other in others)}
    near = {entry: own.near(entry) for entry in short}
    ambiguous = {entry for entry, names in near.items() if len(names) > 1}
    unknown = {entry for entry in short if not near[entry] and not any(other.near(entry) for other in others)}
    excluded = {*meant.values(), *(name for names in near.values() if len(names) == 1 for name in names)}
    kept = [video for video in videos.videos if relative_name(video.path, videos.root) not in excluded]
    if not kept:
        raise DataError(f"{file}: excludes all {len(videos.videos)} videos of {videos.root}")
    notes = [
        f"{file}: {len(which)} of {len(entries)} entries {how}, such as {sorted(which)[0]!r}"
        for how, which in {
            "name no video": unknown,
            "name several videos, so none is excluded": ambiguous,
            "name a video in several sets, and exclude it in each": elsewhere & meant.keys(),
        }.items()
        if which
    ]
    layout = f"{videos.layout}; {counted(len(videos.videos) - len(kept), 'video')} excluded"
    return replace(videos, videos=kept, layout=layout, notes=[*videos.notes, *notes])


class _Names:
    """What the videos of a list may be called."""

    def __init__(self, videos: VideoList) -> None:
        self.root = videos.root
        self._folders = {videos.root.absolute(), videos.root.resolve()}
        self._names = {relative_name(video.path, videos.root) for video in videos.videos}
        self._short: dict[str, set[str]] = defaultdict(set)
        for name in self._names:
            path = PurePath(name)
            for key in {str(path.with_suffix("")), path.name, path.stem}:
                self._short[key].add(name)

    def exact(self, entry: str) -> str | None:
        """The relative name of the video that an entry leads to."""
        return next((name for name in _spellings(entry, self._folders) if name in self._names), None)

    def near(self, entry: str) -> set[str]:
        """The relative names of the videos that an entry names in short."""
        spellings = list(_spellings(entry, self._folders))
        bare = [str(PurePath(name).with_suffix("")) for name in spellings if is_video(name)]
        return next((self._short[name] for name in [*spellings, *bare] if name in self._short), set())


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
