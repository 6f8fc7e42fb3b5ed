"""Files of JSON lines: appended to while a run goes on, cut back to its checkpoint when it is resumed."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fima.files.atomic import write_file


class LineFile:
    """A file of JSON lines; those that a full disk refuses are kept and tried again; `warn` is told so, once."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn
        self._waiting = b""
        self._warned = False

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines, in one piece."""
        self._waiting += "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        if not self._waiting:
            return
        try:
            self._write_waiting()
        except OSError as error:
            if not self._warned:
                self._warn(f"{self.path}: cannot be written ({error.strerror}); its lines are kept and tried again")
            self._warned = True

    def flush_to_disk(self) -> None:
        """Make sure that what was appended outlives a power cut."""
        self.append([])
        if self.path.exists():
            with self.path.open("rb") as file, contextlib.suppress(OSError):
                os.fsync(file.fileno())

    def _write_waiting(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            rest = memoryview(self._waiting)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(size)  # no half a line
                raise
        self._waiting = b""
        self._warned = False


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep the lines that pass; a last line that was cut off by a crash goes too."""
    if not path.exists():
        return
    kept = [line for line in read_lines(path) if keep(line)]
    write_file(path, "".join(f"{json.dumps(line)}\n" for line in kept), kind=None)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in the whole lines of a file; none where there is no file."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]
