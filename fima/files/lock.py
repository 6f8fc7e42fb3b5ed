"""One process at a time in the folder of a run: a job that is started twice must not mix two runs."""

import contextlib
import os
from pathlib import Path

from fima.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


LOCK = ".lock"
"""The file that is locked."""


class FolderLock:
    """A lock on a folder, which a flag names, that ends with the process that holds it, however that ends."""

    def __init__(self, folder: Path, flag: str = "out") -> None:
        self._path, self._flag = folder / LOCK, flag
        self._descriptor: int | None = None
        if hasattr(os, "register_at_fork"):
            # A process that decodes outlives a killed run by seconds, and would hold the lock as long.
            os.register_at_fork(after_in_child=self.release)

    def take(self) -> None:
        """Take the lock, where the file system knows any; ConfigError where another process holds it, or OSError."""
        if fcntl is None:
            return  # type: ignore[unreachable]
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise ConfigError(
                f"--{self._flag} {self._path.parent}: another process is at work on this run; wait until it has ended"
            ) from None
        except OSError:
            self.release()

    def release(self) -> None:
        """Give the lock back, where it is held."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
