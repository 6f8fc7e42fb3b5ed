"""Ctrl-C and the signals of job schedulers as a request that the loop honours between two steps."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Self

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
SAME_REQUEST_SECONDS = 1.0
"""A second Ctrl-C within this time is an echo: `torchrun` hands its own on to processes that have it already."""


class StopRequest(contextlib.ExitStack):
    """Context manager: a signal asks the loop to stop after its step; a Ctrl-C after it ends the program at once.

    Other signals after the first change nothing: a scheduler sends several, and the last checkpoint is being written.
    Only SIGTERM has a time, 0 for any, to which `step_seconds` is added, the time that the last step took: one that has
    just begun can be done. After it the program ends, whatever it does, with the exit code of SIGTERM: a thread learns
    of the signal from the system, also while the main one is in a decoder that never comes back. `signal_number` is
    None until a signal arrives, then the first one's.
    """

    def __init__(self, grace_seconds: float) -> None:
        super().__init__()
        self.signal_number: int | None = None
        self.step_seconds = 0.0
        self._grace_seconds = grace_seconds
        self._since_seconds = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals are for the program of a thread's caller
            self.callback(self._end_stuck_children)
            for number in SIGNALS:
                # nohup has a lost terminal ignored; Ctrl-C is also ignored in a shell's background, where it means us.
                if signal.Signals(number).name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
                    self.callback(signal.signal, number, signal.signal(number, self._receive))
            self.enter_context(ended_after(self._seconds_left, "; the last checkpoint is as it was"))
        return self

    def _seconds_left(self) -> float:
        return self._grace_seconds and self._grace_seconds + self.step_seconds

    def _end_stuck_children(self) -> None:
        if self.signal_number == signal.SIGTERM:  # the loader would wait for each of those that are stuck
            _end_children()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number, self._since_seconds = number, now
            name = signal.Signals(number).name
            with contextlib.suppress(OSError):  # a terminal that is lost takes no more
                # Not `print`, which the signal may have interrupted.
                os.write(2, f"fima: {name}: stopping after this step; Ctrl-C stops at once\n".encode())
        elif number == signal.SIGINT and now - self._since_seconds > SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt


@contextlib.contextmanager
def ended_after(grace_seconds: Callable[[], float], note: str = "") -> Iterator[None]:
    """End the program, and the processes that decode, so long after SIGTERM (0: never), unless the block has ended."""
    arrivals, wakeup = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has it since Python 3.12, and does not ask for it
        os.set_blocking(wakeup, False)
    previous = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    is_over = threading.Event()

    def watch() -> None:
        with os.fdopen(arrivals, "rb", buffering=0) as numbers:  # a byte a signal
            while number := numbers.read(1):
                seconds = grace_seconds()
                if number[0] == signal.SIGTERM and seconds and not is_over.wait(seconds):
                    took = f"not done {seconds:.3g} s later"
                    os.write(2, f"fima: SIGTERM: {took}, so ended{note}\n".encode())
                    _end_children()
                    os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(previous)
        os.close(wakeup)


@contextlib.contextmanager
def sigterm_leaves_in_order(grace_seconds: float) -> Iterator[None]:
    """SIGTERM leaves by an exception, as Ctrl-C does, so that what was begun is removed, with so much time for that."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are for the program of whoever calls from a thread
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with ended_after(lambda: grace_seconds):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_children() -> None:
    """End the processes that decode."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _leave_signals_to_the_parent() -> None:
    """In a process that was forked: what signals it gets is nothing that the parent is told of."""
    signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_signals_to_the_parent)
