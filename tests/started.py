"""Processes that start in a moment: each is a copy of one that has loaded what `conftest.py` names."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from pathlib import Path

import torch
import torch.multiprocessing as mp

from fima.cli import main

CONTEXT = mp.get_context("forkserver")


class Started:
    """A function in a process of its own, with the part of `subprocess.Popen` that tests use.

    Its result is the exit code. What the process prints, and what it says of errors, go to files.
    """

    def __init__(self, function: Callable[..., int | None], *arguments: object, **environment: str) -> None:
        self._streams = [_new_file() for _ in ("output", "errors")]
        self._said: list[str] = []
        variables = {**os.environ, **environment}
        self._process = CONTEXT.Process(target=_run, args=(self._streams, variables, function, arguments))
        self._process.start()
        # At the end of the tests, too, which would wait for it where one of them has failed.
        util.Finalize(self, self._process.kill, exitpriority=0)

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal if it runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for its end, and return what it has printed and what it has said of errors."""
        self._process.join(timeout)
        assert not self._process.is_alive(), f"not done after {timeout} s"
        if not self._said:
            self._said = [path.read_text() for path in self._streams]
            for path in self._streams:
                path.unlink()
        return self._said[0], self._said[1]


def start_fima(*words: object, environment: Mapping[str, str] | None = None) -> Started:
    """Start a `fima` command, as `python -m fima` does."""
    return Started(main, list(map(str, words)), **environment or {})


def print_to(descriptor: int) -> None:
    """Make a descriptor the standard output of this process, as if it had been from the start."""
    os.dup2(descriptor, 1)
    os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", closefd=False)


def _new_file() -> Path:
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    return Path(name)


def _run(
    streams: Sequence[Path],
    environment: Mapping[str, str],
    function: Callable[..., int | None],
    arguments: tuple[object, ...],
) -> None:
    for number, path in enumerate(streams, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
