"""Places to write to: tried before the work that fills them, and marked so that nothing takes them for data."""

import contextlib
import os
from pathlib import Path

from fima.errors import ConfigError

OUTPUT_MARKER = ".fima-output"
"""A file of this name in a folder says that fima wrote it: no data, wherever it lies."""
TRIAL_BYTES = 2**16


def check_writable(path: Path, *, flag: str | None = None) -> None:
    """Refuse a place that cannot be written, before the work whose result goes there; nothing is left of the trial.

    Args:
        path: a file or folder that will be written, with the folders above it.
        flag: the flag that names it, for the message; None where no flag does.

    Raises:
        ConfigError: the folder cannot be written, the disk is full, or a folder above is a file.
    """
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    folder = existing.parent if existing == path and existing.is_file() else existing
    trial = folder / f".fima-trial.{os.getpid()}"
    try:
        try:
            with trial.open("wb") as file:
                file.write(bytes(TRIAL_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                trial.unlink(missing_ok=True)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        named = path if flag is None else f"--{flag} {path}"
        raise ConfigError(f"{named}: {reason}; make room, or choose another place") from None


def mark_output(folder: Path) -> None:
    """Make a folder for results, with the marker; a folder that has files already is left without.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        (folder / OUTPUT_MARKER).touch()
