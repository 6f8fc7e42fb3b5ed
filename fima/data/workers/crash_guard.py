"""A loader that outlives the processes that decode: a video that crashes or blocks one of them costs one sample.

Each process notes what it works on, in memory that it shares with the one that trains. When a process has died, or has
been ended since it took too long, what was being worked on is tried once more in processes that may crash. What fails
there is from then on a video that cannot be decoded, and the epoch goes on at the batch that was due; a process that
was ended by something else has changed nothing. The same videos fail again in a resumed run, so that it stays exact.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fima.data.epoch_plan import EpochSampler
from fima.data.workers.batches import in_shared_memory, joined
from fima.data.workers.killable_pool import Failed, run_isolated
from fima.errors import ConfigError, TrainingError, VideoError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

Batch = TypeVar("Batch")

SIGNS_OF_A_DEAD_PROCESS = ("exited unexpectedly", "killed by signal")
MAX_FAILURES = 3
"""Restarts in a row, without a batch between them or a video that explains them, after which a run gives up."""
ISOLATED_SECONDS = 600.0
NOTHING = [-1] * 4
"""What is noted of a process that works on nothing."""
OWN_FILES, FILES_PER_WORKER, COMFORTABLE_FILES_PER_WORKER = 64, 12, 32
"""Files that may be open at once: batches go from process to process as such."""


@dataclass(frozen=True)
class Attempt:
    """One try to draw a sample."""

    epoch: int
    index: int
    """Place of the sample in the plan of an epoch, or of the video in the list."""
    number: int
    """Videos that were tried in its place before."""
    chosen: int
    """Place of the video that is tried."""


class Attempting(Protocol):
    """What is needed of a data set."""

    crashed: dict[Attempt, str]
    """Attempts that must not be repeated, and why."""

    def attempt(self, attempt: Attempt) -> object:
        """Make one attempt. Raises VideoError."""


class _Watched:
    """How this process is watched; `row` is None in one that nobody watches."""

    row: Tensor | None = None
    timeout_seconds = 0.0


@contextmanager
def watched(attempt: Attempt, crashed: Mapping[Attempt, str], path: Path) -> Iterator[None]:
    """Work on an attempt while it is noted; a process that takes too long is ended.

    Raises VideoError, with the reason, for an attempt that crashed before.
    """
    if attempt in crashed:
        raise VideoError(path, crashed[attempt])
    _note([*vars(attempt).values()], _Watched.timeout_seconds)
    try:
        yield
    finally:
        _note(NOTHING, 0)


def _note(numbers: list[int], seconds: float) -> None:
    """Note what this process works on, and have the system end it after some time, also inside a decoder."""
    if _Watched.row is not None:
        _Watched.row.copy_(torch.tensor(numbers))
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, seconds)


def init_worker(worker: int, noted: Tensor | None = None, timeout_seconds: float = 0) -> None:
    """Make a process that decodes use one thread, and leave signals to the process that started it.

    A terminal and a job scheduler signal a whole group of processes; out of the group, a process ends when the one that
    started it says so or is gone. Where its work is `noted`, it is ended when a video takes too long; 0: any time.
    """
    torch.set_num_threads(1)
    if sys.platform != "win32":
        os.setpgid(0, 0)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if noted is not None:
        _Watched.row, _Watched.timeout_seconds = noted[worker], timeout_seconds


def require_open_files(workers: int, *, flag: str) -> None:
    """Raise the limit of open files where it is low for so many processes that decode; `flag` gave their number.

    Raises ConfigError where the system allows so few that they would fail or wait for ever.
    """
    if resource is not None and workers:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OWN_FILES + COMFORTABLE_FILES_PER_WORKER * workers
        if 0 <= soft < wanted:
            soft = wanted if hard < 0 else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if 0 <= soft < OWN_FILES + FILES_PER_WORKER * workers:
            most = max(0, (soft - OWN_FILES) // FILES_PER_WORKER)
            raise ConfigError(
                f"--{flag} {workers}: too many for {soft} open files, the limit here; "
                f"choose {most}, or a higher limit (ulimit -n)"
            )


class Guard:
    """Looks after the processes of a loader: what is left when one of them dies, and whether the loader goes on.

    A video may take `timeout_seconds`; 0: any time. `flag` gave the number of processes. Raises ConfigError where the
    system allows too few open files for these, and TrainingError where there is no shared memory.
    """

    def __init__(self, dataset: Attempting, *, workers: int, flag: str, timeout_seconds: float) -> None:
        require_open_files(workers, flag=flag)
        self._dataset = dataset
        self._workers = workers
        self._failures = 0
        self._timeout_seconds = timeout_seconds
        self._noted = torch.tensor(NOTHING).repeat(workers, 1)
        """What each process works on, int64 (workers, 4), in shared memory."""
        if workers:
            try:
                self._noted.share_memory_()  # type: ignore[no-untyped-call]
            except (RuntimeError, OSError) as error:
                raise TrainingError(
                    f"no shared memory for {workers} processes that decode ({str(error).splitlines()[0]}): give "
                    "/dev/shm room (in a container: --shm-size), or decode without processes, with 0 workers"
                ) from None

    def loader(self, dataset: "Dataset[Any]", **options: Any) -> "DataLoader[Any]":  # noqa: ANN401
        """A loader with these processes, of a data set whose items are batches."""
        # PyTorch's advice on processes and cores, a paragraph each time; how long is waited for data is said anyway.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self._workers,
            collate_fn=in_shared_memory,
            worker_init_fn=partial(init_worker, noted=self._noted, timeout_seconds=self._timeout_seconds),
            # Its own generator: the loader would otherwise draw from the one that dropout uses.
            generator=torch.Generator(),
            **options,
        )

    def items(self, loader: "DataLoader[Any]") -> Iterator[Any]:
        """What a loader gives; each item counts as a sign of life, and errors among them are raised."""
        items = iter(loader)
        _leave_deaths_to_the_loader()
        for item in items:
            self._failures = 0
            # A new error: raising a local variable makes a reference cycle, from which workers stop only slowly.
            if isinstance(item, VideoError | TrainingError):
                raise copy(item)
            yield item

    def survives(self, error: Exception) -> bool:
        """Whether loading goes on after an error, with new processes: it was the death of one of the old ones.

        What they were working on is tried once more, in processes that may crash; what fails is noted in the data set.
        """
        # The loader's ways to say that a process is gone, perhaps while it handed over a batch.
        is_death = not isinstance(error, RuntimeError) or any(sign in str(error) for sign in SIGNS_OF_A_DEAD_PROCESS)
        if not self._workers or not is_death:
            return False
        attempts = [Attempt(*row) for row in self._noted.tolist() if row[0] >= 0]
        items = [(self._dataset, attempt) for attempt in attempts]
        timeout = self._timeout_seconds or ISOLATED_SECONDS
        found = {
            attempts[place]: outcome.reason
            for place, outcome in run_isolated(_try, items, workers=self._workers, timeout_seconds=timeout)
            if isinstance(outcome, Failed)
        }
        self._dataset.crashed.update(found)
        self._failures = 0 if found else self._failures + 1
        self._noted.fill_(-1)
        return self._failures < MAX_FAILURES


class GuardedLoader(Generic[Batch]):
    """Iterates over the batches of one epoch after another, in the order of a sampler.

    The data set gives each item as a batch of one, or raises VideoError. Without workers this process decodes; a video
    may take `timeout_seconds`, 0: any time.
    """

    def __init__(self, dataset: Attempting, order: EpochSampler, *, workers: int, timeout_seconds: float) -> None:
        self._batches: _Batches[Batch] = _Batches(dataset)
        self._order = order
        self._workers = workers
        self._guard = Guard(dataset, workers=workers, flag="data.workers", timeout_seconds=timeout_seconds)
        self._loader: DataLoader[Any] | None = None

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Chooses the epoch that the next iteration gives, and the step at which it begins (to resume)."""
        self._order.set_epoch(epoch, start_step)

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(self._order)

    @property
    def num_samples(self) -> int:
        """Items of a whole epoch, in all processes."""
        return self._order.plan.num_samples

    def __iter__(self) -> Iterator[Batch]:
        step = self._order.start_step
        while True:
            if self._loader is None:
                # Not where there is a GPU that is not in use: pinning would take it.
                in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
                options = {"persistent_workers": self._workers > 0, "pin_memory": in_use}
                self._loader = self._guard.loader(self._batches, sampler=self._order, **options)
            try:
                for batch in self._guard.items(self._loader):
                    step += 1
                    yield batch
            except (RuntimeError, OSError, EOFError) as error:
                self._loader = None
                if not self._guard.survives(error):
                    raise
                self._order.set_epoch(self._order.epoch, step)
            else:
                self._order.set_epoch(self._order.epoch)  # not where a process died, if this epoch comes again
                return


class _Batches(Dataset[Batch | VideoError]):
    """Items of a data set as one batch; an error in its place, which a DataLoader would raise as a RuntimeError."""

    def __init__(self, dataset: Attempting) -> None:
        self._dataset: Any = dataset

    def __getitem__(self, items: Sequence[object]) -> Batch | VideoError:
        try:
            return cast(Batch, joined([self._dataset[item] for item in items]))
        except VideoError as error:
            return error


def _try(item: tuple[Attempting, Attempt]) -> None:
    dataset, attempt = item
    dataset.attempt(attempt)


def _leave_deaths_to_the_loader() -> None:
    """Undo PyTorch's signal handler, which would raise the death of a process in the middle of a training step.

    The loader looks for dead processes itself, every few seconds, when a batch does not come.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "").startswith("torch."):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
