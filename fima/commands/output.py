"""What commands print: warnings, and standard output whose reader may leave before its end, as `head` does."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fima.errors import DataError, near_path, warn

if TYPE_CHECKING:  # it needs NumPy, for which help need not wait
    from fima.config import Dataset
    from fima.data.layouts.video_list import Split, Video


def listed_videos(
    given: Path,
    split: Split = "all",
    split_index: int = 1,
    *,
    dataset: Dataset = "auto",
    annotations: Path | None = None,
) -> list[Video]:
    """Return a video that was given, or those of a folder or a table, after its warnings. Raises DataError."""
    from fima.data.datasets import Video, list_videos
    from fima.data.layouts.rows import TABLE_SUFFIXES

    if not given.exists():
        raise DataError(f"{given}: no such file or folder{near_path(given) or '; check the path'}")
    if not given.is_dir() and given.suffix.lower() not in TABLE_SUFFIXES:
        return [Video(given, None)]
    videos = list_videos(given, split, split_index, dataset=dataset, annotations=annotations)
    for sentence in videos.warnings():
        warn(sentence)
    return list(videos.videos)


def show_next(*commands: Sequence[object]) -> None:
    """Name the commands, by their words, that usually come next: in a terminal, by one of several processes."""
    if sys.stdout.isatty() and os.environ.get("RANK", "0") == "0":
        for label, words in zip(("next:", *["  or:"] * len(commands)), commands, strict=False):
            print(f"{label} fima {shlex.join(map(str, words))}")


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more.

    Pipes to processes that decode break too, with the same error, which is another matter.
    """
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # Windows, or no file
        return False
    return any(event & select.POLLERR for _, event in watch.poll(0))


def discard_output() -> None:
    """Let what is left in the buffer of standard output go nowhere, so that Python's end has nothing to complain of."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
