"""Places to write to: tried before the work that fills them, and marked so that nothing takes them for data."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from fima.errors import ConfigError
from fima.files.atomic import flush_to_disk, write_file

OUTPUT_MARKER = ".fima-output"
"""A file of this name in a folder says that fima wrote it: no data, wherever it lies. Where the folder has files of
others, it names those that fima wrote, as JSON, one a line."""
TRIAL_BYTES = 2**16
IS_WRITTEN = object()
OutputPath = Annotated[Path, IS_WRITTEN]
"""A file or folder that a command writes, as the type of a flag: it is tried before the work."""
IS_FILE = object()
OutputFile = Annotated[Path, IS_WRITTEN, IS_FILE]
"""The same of a file."""


def check_writable(path: Path, *, flag: str | None = None, is_file: bool = False) -> None:
    """Refuse a place that cannot be written, before the work whose result goes there; nothing is left of the trial.

    A file or folder will be written there, with the folders above it; the flag, where one names it, is for the message.
    Raises ConfigError where the folder cannot be written, the disk is full, a folder above is a file, or a folder lies
    where a file will be written.
    """
    named = path if flag is None else f"--{flag} {path}"
    if is_file and path.is_dir():
        raise ConfigError(f"{named}: is a folder; name a file")
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    folder = existing.parent if existing == path and existing.is_file() else existing
    trial = folder / f".fima-trial.{os.getpid()}"
    try:
        try:
            with trial.open("wb") as file:
                file.write(bytes(TRIAL_BYTES))
                file.flush()
                flush_to_disk(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                trial.unlink(missing_ok=True)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise ConfigError(f"{named}: {reason}; make room, or choose another place") from None


def mark_output(folder: Path, names: Iterable[str]) -> None:
    """Make a folder for results, with a marker: of all of it, or of these names among other files. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        (folder / OUTPUT_MARKER).touch()
    elif marked_outputs(folder) != frozenset():
        mark_files(folder, names)


def mark_files(folder: Path, names: Iterable[str]) -> None:
    """Say of files in a folder that fima wrote them. Raises OSError where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    known = marked_outputs(folder) or frozenset()
    if new := [name for name in names if name not in known]:
        lines = (json.dumps(name) + "\n" for name in [*sorted(known), *new])
        write_file(folder / OUTPUT_MARKER, "".join(lines), kind=None)


def marked_outputs(folder: Path) -> frozenset[str] | None:
    """The files in a folder that are results, by its marker: an empty set stands for all, None for none.

    All of a folder is marked by an empty file. Lines that are no whole names are passed over.
    """
    try:
        lines = (folder / OUTPUT_MARKER).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    names = set()
    for line in lines:
        with contextlib.suppress(ValueError):
            names.add(str(json.loads(line)))
    return frozenset(names) if names or not lines else None
