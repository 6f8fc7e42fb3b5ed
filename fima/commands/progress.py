"""How far a command is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fima.commands.verbosity import is_quiet
from fima.console import Console

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def kept_when_interrupted() -> Iterator[None]:
    """Say that an interrupted command goes on where it was when it is repeated."""
    try:
        yield
    except KeyboardInterrupt:
        print("the videos that are finished stay; repeat the command to go on", file=sys.stderr)
        raise


@contextmanager
def progress(what: str, things: str = "files") -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the things done and all of them; it writes to stderr what is done to them."""
    console = Console(stderr=True)
    if is_quiet():
        yield lambda done, total: None
        return
    if not console.is_terminal:
        yield _lines(what, things)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str, things: str) -> Callable[[int, int], None]:
    """Return what prints a line now and then."""
    printed = time.monotonic()
    first: tuple[float, int] | None = None

    def report(done: int, total: int) -> None:
        nonlocal printed, first
        now = time.monotonic()
        # Until the first things are done, what takes time is mostly processes that start.
        began, at_first = first = first or (now, done)
        if now - printed < SECONDS_BETWEEN_LINES or not done:
            return
        printed = now
        left = f", about {(now - began) * (total - done) / (done - at_first):.0f} s left" if done > at_first else ""
        print(f"{what}: {done:,} of {total:,} {things}{left}", file=sys.stderr, flush=True)

    return report
