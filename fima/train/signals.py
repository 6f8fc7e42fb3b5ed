"""Ctrl-C and the signals of job schedulers as a request that the loop honours between two steps."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
SAME_REQUEST_SECONDS = 1.0
"""A second Ctrl-C within this time is an echo: `torchrun` hands its own on to processes that have it already."""
PATIENCE_SECONDS = 4.0
"""Time after SIGTERM for what may be given up, such as waiting for a batch."""
LOOK_SECONDS = 0.1


class StopRequest:
    """Context manager: a signal asks the loop to stop after its step; a Ctrl-C after it ends the program at once.

    Other signals after the first change nothing: a scheduler sends several, and the last checkpoint is being written.
    Only SIGTERM has a time: what may be given up ends the program soon after it, with the exit code of SIGTERM.
    `signal_number` is None until a signal arrives, then the first one's.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._since_seconds = 0.0
        self._previous: dict[int, Any] = {}
        self._may_give_up = False
        self._watch: threading.Thread | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._is_over.set()

    @contextmanager
    def may_give_up(self) -> Iterator[None]:
        """Do what may be given up after SIGTERM, at any point of it: no checkpoint is written in it."""
        self._may_give_up = True
        try:
            yield
        finally:
            self._may_give_up = False

    def awaited(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give items; waiting for the next of them may be given up, what is done with them may not."""
        iterator = iter(items)
        while True:
            with self.may_give_up():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _give_up_in_time(self) -> None:
        """End the program, and the processes that decode, where what goes on after SIGTERM may be given up."""
        wait = PATIENCE_SECONDS
        while not self._is_over.wait(wait):
            if self._may_give_up:
                os.write(2, b"fima: SIGTERM: ended without another step; the last checkpoint is as it was\n")
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(128 + signal.SIGTERM)
            wait = LOOK_SECONDS

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGTERM and self._watch is None:
            self._watch = threading.Thread(target=self._give_up_in_time, daemon=True)
            self._watch.start()
        if self.signal_number is None:
            self.signal_number, self._since_seconds = number, now
            name = signal.Signals(number).name
            # Not `print`, which the signal may have interrupted.
            os.write(2, f"fima: {name}: stopping after this step; Ctrl-C stops at once\n".encode())
        elif number == signal.SIGINT and now - self._since_seconds > SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt
