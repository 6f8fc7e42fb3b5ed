"""Runs a function over many files in worker processes; one that hangs, crashes or eats memory costs only its file."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKER_BYTES = 8 * 2**30
"""Address space of a worker process; a file that needs more fails alone."""
EXIT_SECONDS = 5.0
"""Longest wait for an idle worker process to end by itself."""
START_SECONDS = 120.0
"""Longest wait for a worker process to begin."""


@dataclass(frozen=True)
class Failed:
    """What became of an item whose function did not return."""

    reason: str


@dataclass(kw_only=True)
class _Worker(Generic[Item]):
    process: BaseProcess
    connection: Connection
    queue: deque[tuple[int, Item]] = field(default_factory=deque)
    since: float = 0.0
    """Clock when it began with the first item of its queue."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_isolated(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    timeout_seconds: float,
    items_at_once: int = 1,
) -> Generator[tuple[int, Result | Failed], None, None]:
    """Call a function at the top level of a module on every item, in other processes.

    A worker that takes longer than `timeout_seconds` over one item, or that dies, is replaced; its other items are
    given to others. Closing the iterator ends all workers. Several `items_at_once` save time where an item takes
    milliseconds. Yields the position in `items` with the result or failure, in the order in which they are done.
    """
    waiting = deque(enumerate(items))
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    context.set_forkserver_preload([function.__module__])
    team: list[_Worker[Item]] = []
    try:
        while waiting or any(worker.queue for worker in team):
            while waiting and len(team) < min(workers, len(waiting) + len(team)):
                team.append(_start(context, function))
            for worker in team:
                if waiting and not worker.queue:
                    worker.queue.extend(waiting.popleft() for _ in range(min(items_at_once, len(waiting))))
                    worker.since = time.monotonic()
                    # A worker that has just died is found when its answer is waited for.
                    with contextlib.suppress(OSError):
                        worker.connection.send(list(worker.queue))
            for worker in _ready(team, timeout_seconds):
                outcome: Result | Failed = _outcome(worker, timeout_seconds)
                position, _ = worker.queue.popleft()
                yield position, outcome
                if isinstance(outcome, _Ended):
                    waiting.extendleft(reversed(worker.queue))
                    team.remove(worker)
                    _end(worker)
    finally:
        idle = [worker for worker in team if not worker.queue]
        for worker in idle:
            worker.connection.close()
        for worker in idle:
            # It ends by itself, and so runs what its libraries do at an exit.
            worker.process.join(EXIT_SECONDS)
        for worker in team:
            _end(worker)


class _Ended(Failed):
    """The worker died or was ended."""


def _start(context: multiprocessing.context.BaseContext, function: Callable[[Item], Result]) -> _Worker[Item]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    # Its modules are imported by then, which is no part of the time for an item. One that has died is found later.
    with contextlib.suppress(EOFError, OSError):
        if ours.poll(START_SECONDS):
            ours.recv()
    return _Worker(process=process, connection=ours)


def _ready(team: list[_Worker[Item]], timeout_seconds: float) -> list[_Worker[Item]]:
    """Workers that have answered, died, or used up their time."""
    busy = [worker for worker in team if worker.queue]
    first_deadline = min(worker.since for worker in busy) + timeout_seconds
    answered = wait([worker.connection for worker in busy], max(0.0, first_deadline - time.monotonic()))
    now = time.monotonic()
    return [worker for worker in busy if worker.connection in answered or now >= worker.since + timeout_seconds]


def _outcome(worker: _Worker[Item], timeout_seconds: float) -> Result | Failed:
    """What the first item of a ready worker came to."""
    if not worker.connection.poll():
        return _Ended(f"not done after {timeout_seconds:g} s")
    try:
        result: Result | Failed = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(1)
        code = worker.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return _Ended(f"the process that worked on it died ({how})")
    worker.since = time.monotonic()
    return result


def _end(worker: _Worker[Item]) -> None:
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.connection.close()


def _work(function: Callable[[Item], Result], connection: Connection) -> None:
    """Life of a worker process: items in, results out, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if resource is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (MAX_WORKER_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.suppress(EOFError, OSError):
        connection.send(None)
        while True:
            for _, item in connection.recv():
                outcome: Result | Failed
                try:
                    outcome = function(item)
                except MemoryError:
                    outcome = Failed("needs too much memory")
                except Exception as error:
                    outcome = Failed(f"{type(error).__name__}: {error}")
                connection.send(outcome)
