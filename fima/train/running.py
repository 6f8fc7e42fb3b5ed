"""What every training loop needs around its steps: seeds, counts, records, errors in one line, and when to stop."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fima.checkpoints.checkpoint import Progress
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig, PretrainConfig
from fima.data.loader import SkippedVideo
from fima.errors import CheckpointError, TrainingError, VideoError
from fima.torch_tools import distributed
from fima.train.log import Averages, RunLog, StepClock
from fima.train.signals import StopRequest
from fima.train.step import NotFiniteError

SKIPPED_JUDGED_AFTER = 20
REMEDIES = {
    "out of memory": "Try a smaller --optim.batch_size, --data.crop_size or --data.frames",
    "DataLoader worker (pid": "A process that decodes has died; try fewer --data.workers, they may lack memory",
}
SIGNS_OF_A_LOST_PROCESS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


class Running(Protocol):
    """What is looked at of a loop's state, whatever it trains."""

    @property
    def config(self) -> PretrainConfig | FinetuneConfig:
        """Settings of the run."""

    @property
    def run(self) -> RunFolder:
        """Its folder."""

    @property
    def device(self) -> torch.device:
        """Where it trains."""

    @property
    def log(self) -> RunLog:
        """Its records."""

    @property
    def stop(self) -> StopRequest:
        """Whether a signal has arrived."""


class TrainBatch(Protocol):
    """What is looked at of a batch, whatever it holds."""

    @property
    def paths(self) -> list[str]:
        """Its videos."""

    @property
    def skipped(self) -> list[SkippedVideo]:
        """Videos that could not be decoded and were replaced by others."""


class EpochMeter:
    """Means and speed of one epoch, and a line in `metrics.jsonl` every so many steps.

    Args:
        log: where the lines go.
        log_steps: steps between two lines.
        epoch: the epoch, counted from 0.
        lr: its learning rate.
        progress: what is done of the epoch.
    """

    def __init__(self, log: RunLog, *, log_steps: int, epoch: int, lr: float, progress: Progress) -> None:
        self._log = log
        self._log_steps = log_steps
        self._epoch = epoch
        self._lr = lr
        self._averages = Averages(progress.averaged_steps, progress.sums)
        self._clocks = StepClock(), StepClock()

    def step_starts(self) -> None:
        """The batch has arrived."""
        for clock in self._clocks:
            clock.step_starts()

    def step_ends(
        self, progress: Progress, values: Mapping[str, float], num_videos: int, *, beside: Mapping[str, float]
    ) -> Progress:
        """Count a step that is done.

        Args:
            progress: the progress before it.
            values: what it measured, for the means and the line.
            num_videos: videos of the global batch.
            beside: what it measured for the line alone.

        Returns:
            The progress after it.
        """
        step = progress.step + 1
        self._averages.add(values)
        for clock in self._clocks:
            clock.step_ends(num_videos)
        line_clock = self._clocks[1]
        rates = line_clock.rates()
        self._log.advance(step, values, rates)
        if step % self._log_steps == 0:
            line = {"lr": self._lr, **values, **beside, **rates}
            self._log.record("step", epoch=self._epoch + 1, step=step, values=line)
            line_clock.reset()
        return dataclasses.replace(
            progress,
            step=step,
            step_in_epoch=progress.step_in_epoch + 1,
            averaged_steps=self._averages.count,
            sums=dict(self._averages.sums),
        )

    def means(self) -> dict[str, float]:
        """Return the learning rate, the mean of each value and the speed of the epoch."""
        return {"lr": self._lr, **self._averages.means(), **self._clocks[0].rates()}


class SaveClock:
    """Says when a checkpoint inside an epoch is due.

    Args:
        minutes: time between two of them; 0 for none.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Whether the time is over; if so, it begins again."""
        due = self._seconds > 0 and time.monotonic() - self._since >= self._seconds
        if due:
            self._since = time.monotonic()
        return due


@contextmanager
def errors_in_one_line(run: RunFolder) -> Iterator[None]:
    """Say what goes wrong in one line, with the checkpoint that is left; at the end, leave the process group.

    Raises:
        TrainingError: in the place of a video that nothing can replace, exhausted memory, a dead worker process, or
            another process of the run that has ended or does not answer.
    """
    try:
        yield
    except VideoError as error:
        raise TrainingError(f"{error}; {run.last_good()}") from None
    except RuntimeError as error:
        text = str(error)
        if distributed.world_size() > 1 and any(sign in text for sign in SIGNS_OF_A_LOST_PROCESS):
            raise TrainingError(
                f"another process of the run has ended or does not answer ({text.splitlines()[0].strip()}); "
                f"what it says itself is the cause; {run.last_good()}"
            ) from None
        remedy = next((remedy for sign, remedy in REMEDIES.items() if sign in text), None)
        if remedy is None:
            raise
        raise TrainingError(f"{text.splitlines()[0].strip()} {remedy}; {run.last_good()}") from None
    finally:
        distributed.shutdown()


def not_finite(error: NotFiniteError, training: Running, progress: Progress) -> TrainingError:
    """Record the videos of a step whose loss is not finite, and say where it was and what to try."""
    step, epoch = progress.step + 1, progress.epoch + 1
    training.log.record("stopped", epoch=epoch, step=step, values={"videos": error.paths})
    advice = "try a lower --optim.lr, or --run.precision fp32"
    return TrainingError(f"step {step} (epoch {epoch}): {error}; {training.run.last_good()}; {advice}")


def count_videos(training: Running, progress: Progress, batch: TrainBatch) -> Progress:
    """Count the videos of a batch and record those that could not be decoded.

    Raises:
        TrainingError: too large a share of the videos that were tried cannot be decoded.
    """
    skipped = [
        {"path": video.path, "reason": video.reason, "epoch": video.epoch + 1, "step": progress.step + 1}
        for video in batch.skipped
    ]
    training.log.record_skipped(skipped)
    progress = dataclasses.replace(
        progress,
        videos_tried=progress.videos_tried + len(batch.paths) + len(skipped),
        videos_skipped=progress.videos_skipped + len(skipped),
    )
    share = progress.videos_skipped / max(progress.videos_tried, 1)
    allowed = training.config.data.max_skipped_share
    if progress.videos_tried >= SKIPPED_JUDGED_AFTER and share > allowed:
        raise TrainingError(
            f"{progress.videos_skipped} of {progress.videos_tried} videos ({share:.0%}) cannot be decoded, more than "
            f"--data.max_skipped_share {allowed}; {training.run.skipped} says which and why; {training.run.last_good()}"
        )
    return progress


def finite_state(module: nn.Module, progress: Progress, run: RunFolder) -> dict[str, Tensor]:
    """Return the state of a module.

    Raises:
        TrainingError: a weight is not finite; the checkpoints stay as they were.
    """
    state: dict[str, Tensor] = module.state_dict()
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise TrainingError(
            f"step {progress.step}: weights are not finite ({', '.join(broken[:3])}); {run.last_good()}; "
            "try a lower --optim.lr"
        )
    return state


def save_or_warn(training: Running, save: Callable[[], None]) -> bool:
    """Write a checkpoint after the records that it counts as done; where that fails, say so aloud and go on.

    Returns:
        Whether it is written.
    """
    training.log.flush_to_disk()
    try:
        save()
    except CheckpointError as error:
        left = training.run.last_good()
        training.log.warn(f"CHECKPOINT NOT WRITTEN: {error}; {left}; make room: the next one is tried when it is due")
        return False
    return True


def numbered_is_due(config: PretrainConfig | FinetuneConfig, progress: Progress) -> bool:
    """Whether a numbered checkpoint is kept here."""
    due = progress.epoch % config.run.checkpoint_epochs == 0 or progress.epoch == config.optim.epochs
    return progress.step_in_epoch == 0 and due


def require_saved(saved: bool, run: RunFolder) -> None:
    """Refuse to call a run finished whose end is in no checkpoint.

    Raises:
        TrainingError: `saved` is not true.
    """
    if not saved:
        raise TrainingError(
            f"the end of the run is in no checkpoint, since it could not be written; {run.last_good()}; make room, "
            "and repeat the command with --resume"
        )


def random_state(device: torch.device) -> dict[str, Any]:
    """Return torch's random state: `cpu`, and `cuda` with one tensor per device."""
    cuda: Sequence[Tensor] = torch.cuda.get_rng_state_all() if device.type == "cuda" else []
    return {"cpu": torch.get_rng_state(), "cuda": list(cuda)}


def stop_requested(training: Running) -> bool:
    """Whether a signal has reached any of the processes, so that all of them stop at the same step."""
    received = training.stop.signal_number is not None
    if distributed.world_size() == 1:
        return received
    return bool(distributed.all_reduce_sum(torch.tensor(float(received))) > 0)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed for torch that is a function of the run's seed, the step and the process, and of nothing else."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
