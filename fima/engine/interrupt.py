"""Ctrl-C and SIGTERM as a request that the loop honours between two steps."""

import signal
from collections.abc import Iterable, Iterator
from itertools import islice
from types import FrameType, TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def spare_processes(batches: Iterable[Item]) -> Iterator[Item]:
    """Iterate over a loader so that the processes which it starts for the first item never receive these signals.

    A terminal and a job scheduler signal the whole process group, and PyTorch raises an error in the middle of a step
    when a process that decodes is ended.
    """
    iterator = iter(batches)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        first = list(islice(iterator, 1))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
