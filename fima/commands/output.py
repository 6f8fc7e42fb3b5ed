"""What commands write: files, and standard output whose reader may leave before its end, as `head` does."""

import contextlib
import os
import select
import sys
from pathlib import Path

from fima.data.layouts.video_list import VideoList
from fima.errors import ConfigError
from fima.files.atomic import replace_file


def write_text(path: Path, text: str) -> None:
    """Write a file in one piece, in UTF-8; names that are none are escaped. Its folder is made where it is missing.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        replace_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def warn_of(videos: VideoList) -> None:
    """Say what a person should know of a list of videos: what was passed over, and what is odd."""
    for sentence in videos.warnings():
        print(f"fima: warning: {sentence}", file=sys.stderr)


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more.

    Pipes to processes that decode break too, with the same error, which is another matter.
    """
    if not hasattr(select, "poll"):
        return False
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    watch = select.poll()
    watch.register(number, 0)
    return any(event & select.POLLERR for _, event in watch.poll(0))


def discard_output() -> None:
    """Let what is left in the buffer of standard output go nowhere, so that Python's end has nothing to complain of."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
