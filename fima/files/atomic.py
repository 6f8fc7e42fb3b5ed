"""Files that hold the old content or the whole new one, whatever happens while they are written."""

import contextlib
import errno
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from fima.errors import ConfigError, UserError

LONGEST_NAME = 200
"""Bytes; most file systems take 255, of which the temporary name needs some."""
CANNOT_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What file systems say that do not know how: some network disks, and folders of programs as file systems."""
TEMPORARY_FILES = ".*.[0-9]*.tmp*"
"""Names of the files that an interrupted write leaves behind."""


@contextlib.contextmanager
def written_whole(
    path: Path, *, backups: Sequence[Path] = (), kind: type[UserError] | None = ConfigError
) -> Iterator[Path]:
    """Yield an empty file to write to; when the block ends, it is flushed to the disk and replaces `path`.

    Its folder is made where it is missing. Backups are names for the content before: the first one takes that of
    `path`, the second that of the first, and so on. Raises an error of the `kind`, whose message names `path`, for a
    full disk or a folder that cannot be written; None: the OSError itself. `path` and the backups stay as they were.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != mode:  # the safetensors library writes for the owner alone
                with contextlib.suppress(OSError):  # not every network disk has modes
                    temporary.chmod(mode)
            _flush(temporary)
            _shift(path, backups)
            temporary.replace(path)
            with contextlib.suppress(OSError):  # not every system can flush a folder's names
                _flush(path.parent)
        except Exception as error:
            raise _of_the_system(error) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        if kind is None:
            raise
        reason = f"cannot be written ({error.strerror or error})"
        raise kind(f"{path}: {reason}; make room, or choose another place") from None


def write_file(path: Path, content: str | bytes, *, kind: type[UserError] | None = ConfigError) -> None:
    """Write a file in one piece, as `written_whole` says; text in UTF-8, with what is no valid text escaped."""
    with written_whole(path, kind=kind) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))


def remove_leftovers(folder: Path, where: str = ".") -> None:
    """Remove what interrupted writes have left in a folder; `**`: in those below it too."""
    for path in folder.glob(f"{where}/{TEMPORARY_FILES}"):
        path.unlink(missing_ok=True)


def _of_the_system(error: Exception) -> Exception:
    """What the file system said, where a library hides it behind an error of its own: PyTorch, safetensors."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number and not isinstance(error, OSError):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return error.__context__ if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError) else error


def _shift(path: Path, backups: Sequence[Path]) -> None:
    """Pass the contents on by one name; `path` keeps its own."""
    if not backups or not path.exists():
        return
    for newer, older in reversed(list(pairwise(backups))):
        if newer.exists():
            newer.replace(older)
    second_name = _temporary(backups[0])
    second_name.unlink(missing_ok=True)
    try:
        second_name.hardlink_to(path)
    except OSError:  # a file system without hard links
        second_name = path
    second_name.replace(backups[0])


def _temporary(path: Path) -> Path:
    """A hidden name in the same folder, with the same suffix: by it, writers choose the format."""
    stem = path.stem if len(os.fsencode(path.name)) <= LONGEST_NAME else f"{zlib.crc32(os.fsencode(path.name)):08x}"
    return path.with_name(f".{stem}.{os.getpid()}.tmp{path.suffix}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush_to_disk(descriptor)
    finally:
        os.close(descriptor)


def flush_to_disk(descriptor: int) -> None:
    """Make sure that an open file outlives a power cut, where its file system can. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise
