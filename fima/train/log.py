"""What a run says while it goes on: the terminal, `metrics.jsonl`, `skipped.jsonl` and TensorBoard."""

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fima.checkpoints.run_folder import RunFolder
from fima.console import Console
from fima.files.jsonl import LineFile
from fima.train.health import Health

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.utils.tensorboard import SummaryWriter

SETTLED_STEPS = 100
LOSS_NAMES = ("loss", "instance", "frame", "cell")


class StepClock:
    """Time of a stretch of steps, split into waiting for data and the rest."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new stretch now."""
        self._start_seconds = time.perf_counter()
        self._mark_seconds = self._start_seconds
        self._wait_seconds = 0.0
        self._videos = 0

    def step_starts(self) -> None:
        """The batch has arrived: what went by since the last step was waiting."""
        self._wait_seconds += time.perf_counter() - self._mark_seconds

    def step_ends(self, num_videos: int) -> None:
        """The step over `num_videos` videos is done."""
        self._mark_seconds = time.perf_counter()
        self._videos += num_videos

    def rates(self) -> dict[str, float]:
        """Return `videos_per_second` and `data_wait_share` of the stretch, and its `seconds`."""
        seconds = max(time.perf_counter() - self._start_seconds, 1e-9)
        return {
            "seconds": seconds,
            "videos_per_second": self._videos / seconds,
            "data_wait_share": self._wait_seconds / seconds,
        }


class Averages:
    """Running means of named numbers.

    Args:
        count: sets of values that were counted before.
        sums: their sums.
    """

    def __init__(self, count: int = 0, sums: Mapping[str, float] | None = None) -> None:
        self.count = count
        self.sums = dict(sums or {})

    def add(self, values: Mapping[str, float]) -> None:
        """Count one set of values; the names must be the same each time."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return the mean of each name; empty before the first `add`."""
        return {name: total / self.count for name, total in self.sums.items()}


class RunLog:
    """Records of a run; a silent one (`enabled=False`) writes nothing, for the processes beside the first.

    Args:
        run: folder of the run, which exists.
        num_steps: steps of the whole run.
        first_step: steps that were done before this process started.
        enabled: whether to write and to print.
    """

    def __init__(self, run: RunFolder, *, num_steps: int, first_step: int, enabled: bool) -> None:
        self._enabled = enabled
        self._metrics = LineFile(run.metrics, self.warn)
        self._skipped = LineFile(run.skipped, self.warn)
        self._writer: SummaryWriter | None = None
        self._progress = None
        if not enabled:
            return
        self._writer = SummaryWriter(str(run.root), purge_step=first_step + 1 if first_step else None)
        console = Console()
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("step", total=num_steps, completed=first_step, status="")
            self._progress.start()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        self.flush_to_disk()
        self._draw(lambda writer: writer.close())

    def say(self, text: str) -> None:
        """Print one line to stdout, above the progress bar where there is one."""
        if not self._enabled:
            return
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print one line to stderr, marked as a warning."""
        if self._enabled:
            print(f"fima: warning: {text}", file=sys.stderr, flush=True)

    def advance(self, step: int, values: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Move the progress bar to `step`, with the losses among `values`."""
        if self._progress is not None:
            parts = " ".join(f"{name} {values[name]:.3f}" for name in LOSS_NAMES if name in values)
            status = f"{parts} · {rates['videos_per_second']:.1f} videos/s · {rates['data_wait_share']:.0%} waiting"
            self._progress.update(self._task, completed=step, status=status)

    def epoch(self, epoch: int, num_epochs: int, step: int, values: Mapping[str, float]) -> None:
        """Record the means of an epoch, counted from 1, and say them in one line."""
        self.record("epoch", epoch=epoch, step=step, values=values)
        losses = " ".join(f"{name} {values[name]:.4f}" for name in LOSS_NAMES if name in values)
        speed = f"{values['videos_per_second']:.1f} videos/s · {values['data_wait_share']:.0%} waiting for data"
        self.say(f"epoch {epoch}/{num_epochs} · {losses} · lr {values['lr']:.3g} · {speed} · {values['seconds']:.0f} s")

    def health(self, health: Health, *, epoch: int, step: int) -> None:
        """Record a health check after `epoch`, counted from 1, say it, and warn aloud of a collapse.

        The first steps do not count: untrained networks and unsettled batch-norm averages look like a collapse.
        """
        self.record("health", epoch=epoch, step=step, values={**vars(health), "collapsed": health.collapsed})
        self.say(health.line)
        if health.collapsed and step >= SETTLED_STEPS:
            self.warn(
                f"THE REPRESENTATION HAS COLLAPSED after epoch {epoch}: its embeddings hardly depend on the video "
                f"(effective rank {health.effective_rank:.2f}, std {health.embedding_std:.5f}); what follows is likely "
                "wasted: try a lower --optim.lr, a larger --optim.batch_size or a longer --method.queue_size"
            )

    def record(self, kind: str, *, epoch: int, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and its numbers to TensorBoard.

        Args:
            kind: `step`, `epoch`, `health` or `stopped`.
            epoch: counted from 1, as people count.
            step: optimiser steps done.
            values: what was measured.
        """
        if not self._enabled:
            return
        # JSON knows no NaN: a number that is not finite becomes null.
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._metrics.append([{"kind": kind, "epoch": epoch, "step": step, **plain}])

        def draw(writer: SummaryWriter) -> None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    writer.add_scalar(f"{kind}/{name}", value, step)
            writer.flush()

        self._draw(draw)

    def record_skipped(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append skipped videos to `skipped.jsonl`; each process writes its own, in one piece."""
        self._skipped.append(lines)

    def flush_to_disk(self) -> None:
        """Make sure that what was recorded outlives a power cut; before a checkpoint that counts it as done."""
        for file in (self._metrics, self._skipped):
            file.flush_to_disk()

    def _draw(self, draw: Callable[[SummaryWriter], object]) -> None:
        """Write to TensorBoard; a run goes on without it where that fails."""
        if self._writer is None:
            return
        try:
            draw(self._writer)
        except OSError as error:
            self._writer = None
            self.warn(
                f"no more events for TensorBoard: they cannot be written ({error.strerror}); metrics.jsonl goes on"
            )
