"""What a run says while it goes on: the terminal, `metrics.jsonl`, `skipped.jsonl` and TensorBoard."""

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.progress
from rich.table import Column

from fima.checkpoints.checkpoint import Progress
from fima.checkpoints.run_folder import RunFolder
from fima.console import Console
from fima.errors import outliving_its_output, warn
from fima.files.jsonl import LineFile
from fima.train.health import Health

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.utils.tensorboard import SummaryWriter


NARROWEST_BAR = 4


class RunLog:
    """Records of a run, after `first_step` of `num_steps` steps; where it is not `enabled`, it writes nothing."""

    def __init__(self, run: RunFolder, *, num_steps: int, first_step: int, enabled: bool) -> None:
        self._run, self._enabled = run, enabled
        self._metrics = LineFile(run.metrics, self.warn)
        self._skipped = LineFile(run.skipped, self.warn)
        self._writer: SummaryWriter | None = None
        self._progress, self._num_steps = None, num_steps
        self._excepthook = threading.excepthook
        if not enabled:
            return
        threading.excepthook = self._in_a_thread
        # Also at the very beginning: a run that was ended before its first checkpoint may have left events.
        self._writer = SummaryWriter(str(run.root), purge_step=first_step + 1)
        console = Console()
        if console.is_terminal:
            self._progress = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=20),
                rich.progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
                rich.progress.TextColumn("{task.fields[status]}"),
                rich.progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
                console=console,
            )
            self._task = self._progress.add_task("step", total=num_steps, completed=first_step, status="")
            self._progress.start()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            with outliving_its_output():
                self._progress.stop()
        self.flush_to_disk()
        self._draw(lambda writer: writer.close())
        threading.excepthook = self._excepthook

    def _in_a_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """Leave out the traceback of a thread of TensorBoard that cannot write: the next event raises its error."""
        if not (
            isinstance(arguments.exc_value, OSError) and type(arguments.thread).__module__.startswith("tensorboard")
        ):
            self._excepthook(arguments)

    def say(self, text: str) -> None:
        """Print one line to stdout, above the progress bar where there is one."""
        if not self._enabled:
            return
        with outliving_its_output():
            if self._progress is not None:
                self._progress.console.print(text, markup=False, highlight=False)
            else:
                print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print one line to stderr, marked as a warning."""
        if self._enabled:
            warn(text)

    def advance(self, step: int, losses: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Move the progress bar to `step`, with its losses."""
        if self._progress is None:
            return
        parts = [f"{name} {value:.3f}" for name, value in losses.items()]
        speed = f"{rates['videos_per_second']:.1f} videos/s"
        waiting = f"{speed} · {rates['data_wait_share']:.0%} waiting"
        # On a narrow terminal, what matters least goes, and not the time that is left.
        texts = (f"{' '.join(parts)} · {waiting}", f"{parts[0]} · {waiting}", f"{parts[0]} · {speed}", parts[0], "")
        others = len(f"step  {self._num_steps}/{self._num_steps}  0:00:00 ") + NARROWEST_BAR
        room = self._progress.console.width - others
        status = next(text for text in texts if len(text) <= max(0, room))
        self._progress.update(self._task, completed=step, status=status)

    def epoch(self, progress: Progress, num_epochs: int, values: Mapping[str, float], losses: Sequence[str]) -> None:
        """Record the means of the epoch that has ended, and say them, with the losses among them, in one line."""
        self.record("epoch", epoch=progress.epoch, step=progress.step, values=values)
        means = " ".join(f"{name} {values[name]:.4f}" for name in losses)
        speed = f"{values['videos_per_second']:.1f} videos/s · {values['data_wait_share']:.0%} waiting for data"
        rate = f"lr {values['lr']:.3g}"
        self.say(f"epoch {progress.epoch}/{num_epochs} · {means} · {rate} · {speed} · {values['seconds']:.0f} s")

    def health(self, health: Health, progress: Progress, found: Mapping[str, Any]) -> None:
        """Record a health check, and what else was found then, and say it."""
        values = {**vars(health), "collapsed": health.collapsed, **found}
        self.record("health", epoch=progress.epoch, step=progress.step, values=values)
        probe = f" · probe {found['probe_accuracy']:.1%}" if "probe_accuracy" in found else ""
        self.say(f"{health.line}{probe}{' · best so far' if found.get('best') else ''}")

    def go_back(self, step: int) -> None:
        """Forget what was recorded after a step, from which the run goes on."""
        if not self._enabled:
            return
        self.flush_to_disk()
        self._run.forget_after(step)
        self._draw(lambda writer: writer.close())
        if self._writer is not None:
            self._writer = SummaryWriter(str(self._run.root), purge_step=step + 1)

    def record(self, kind: str, *, epoch: int, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and its numbers to TensorBoard; epochs are counted from 1.

        Kinds are `step`, `epoch`, `health`, `stopped`, `collapse`, `rollback`, and of tests on the way `TESTS`.
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
            why = f"they cannot be written ({error.strerror})"
            self.warn(f"no more events for TensorBoard: {why}; metrics.jsonl goes on")
