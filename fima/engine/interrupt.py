"""Ctrl-C and SIGTERM as a request that the loop honours between two steps."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing import active_children
from types import FrameType, TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def spare_processes(batches: Iterable[Item]) -> Iterator[Item]:
    """Iterate over a loader, and take the processes that it starts for the first item out of this process's group.

    A terminal and a job scheduler signal the whole group, and PyTorch raises an error in the middle of a step when a
    process that decodes is ended. Out of the group, they end when this process tells them to or is gone.
    """
    before = set(active_children())
    iterator = iter(batches)
    first = list(islice(iterator, 1))
    for process in set(active_children()) - before:
        # A process that is gone already, or that runs another program, cannot be moved and need not be.
        with suppress(ProcessLookupError, PermissionError):
            assert process.pid is not None
            os.setpgid(process.pid, process.pid)
    yield from first
    yield from iterator


class StopRequest:
    """Context manager: the first signal asks the loop to stop, a second one ends the program at once.

    `signal_number` is None until a signal arrives.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()
