"""Ctrl-C and the signals of job schedulers as a request that the loop honours between two steps."""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
SAME_REQUEST_SECONDS = 1.0
"""A second Ctrl-C within this time is an echo: `torchrun` hands its own on to processes that have it already."""


class StopRequest:
    """Context manager: a signal asks the loop to stop after its step; a Ctrl-C after it ends the program at once.

    Other signals after the first change nothing: a scheduler sends several, and the last checkpoint is being written.
    `signal_number` is None until a signal arrives, then the first one's.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._since_seconds = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number, self._since_seconds = number, now
            name = signal.Signals(number).name
            # Not `print`, which the signal may have interrupted.
            os.write(2, f"fima: {name}: stopping after this step; Ctrl-C stops at once\n".encode())
        elif number == signal.SIGINT and now - self._since_seconds > SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt
