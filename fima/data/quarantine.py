"""Lists of videos that are to be passed over, one path a line.

Paths are relative to the folder of the videos. Lines that begin with `#` and empty lines are comments. A path that does
not fit into a line as it is (one with a line break, with blanks at an end, beginning with `#` or `"`, or not in UTF-8)
is written as a JSON string, in double quotes.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fima.data.datasets import VideoList
from fima.data.packed_lists import relative_name
from fima.errors import DataError

HEADER = "# Videos that `fima doctor` found unusable: one path a line, relative to the folder of the videos.\n"


def write_quarantine(file: Path, paths: Iterable[str]) -> None:
    """Write such a list, sorted.

    Raises:
        DataError: the file cannot be written.
    """
    lines = "".join(f"{_line(path)}\n" for path in sorted(paths))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HEADER + lines, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror})") from error


def read_quarantine(file: Path) -> set[str]:
    """The paths of such a list.

    Raises:
        DataError: the file cannot be read; its message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as a list of videos to exclude ({error})") from error
    paths: set[str] = set()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            path = json.loads(text) if text.startswith('"') else text
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number}: begins with a quote but is no JSON string") from error
        paths.add(str(path))
    return paths


def exclude(videos: VideoList, file: Path) -> VideoList:
    """The videos that a list does not name.

    Args:
        videos: the list to take them from.
        file: the list of those to pass over, relative to `videos.root`; names of other files do nothing.

    Raises:
        DataError: the file cannot be read, or no video is left.
    """
    excluded = read_quarantine(file)
    kept = [video for video in videos.videos if relative_name(video.path, videos.root) not in excluded]
    if not kept:
        raise DataError(f"{file}: excludes all {len(videos.videos)} videos of {videos.root}")
    return replace(videos, videos=kept, layout=f"{videos.layout}; {len(videos.videos) - len(kept)} videos excluded")


def _line(path: str) -> str:
    plain = path.strip() == path and path.isprintable() and not path.startswith(("#", '"'))
    return path if plain else json.dumps(path)
