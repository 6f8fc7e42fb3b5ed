"""Files that hold the old content or the whole new one, whatever happens while they are written."""

import contextlib
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

TEMPORARY_FILES = ".*.tmp"
"""Names of the files that an interrupted write leaves behind."""


def replace_file(path: Path, write: Callable[[BinaryIO], object], *, backups: Sequence[Path] = ()) -> None:
    """Replace a file in one piece: written beside it, flushed to the disk, renamed, and the folder flushed too.

    Args:
        path: the file; its folder is made where it is missing.
        write: writes the new content.
        backups: names for the content before; the first one takes that of `path`, the second that of the first, …

    Raises:
        OSError: the disk is full, or the folder cannot be written. `path` and the backups are as they were.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            try:
                write(file)
            except RuntimeError as error:
                # PyTorch's writer hides what the file system said behind an error of its own.
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
            file.flush()
            os.fsync(file.fileno())
        _shift(path, backups)
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def let_others_read(path: Path) -> None:
    """Give a file the mode of one that Python opens; the safetensors library writes for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted writes have left in a folder."""
    for path in folder.glob(TEMPORARY_FILES):
        path.unlink(missing_ok=True)


def _shift(path: Path, backups: Sequence[Path]) -> None:
    """Pass the contents on by one name; `path` keeps its own."""
    if not backups or not path.exists():
        return
    for newer, older in reversed(list(pairwise(backups))):
        if newer.exists():
            newer.replace(older)
    second_name = _beside(backups[0])
    second_name.unlink(missing_ok=True)
    try:
        second_name.hardlink_to(path)
    except OSError:  # a file system without hard links
        second_name = path
    second_name.replace(backups[0])


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _flush_folder(folder: Path) -> None:
    """Flush the names of a folder, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
