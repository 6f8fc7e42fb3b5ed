"""What one kind of training has of its own, and what the loop works with; see pretrain.py and finetune.py."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from fima.checkpoints.checkpoint import Progress, RunState, Selection, save_checkpoint, versions
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig, PretrainConfig
from fima.data.datasets import VideoList
from fima.data.workers.crash_guard import GuardedLoader
from fima.errors import CheckpointError
from fima.evaluate.protocols import EvaluationResult
from fima.torch_tools import distributed
from fima.train.failures import finite_state
from fima.train.log import RunLog
from fima.train.signals import StopRequest
from fima.train.step import Batch, Measured


class Task(ABC, Generic[Batch]):
    """One kind of training: its networks, its data, its step, and what is measured besides the losses."""

    config: PretrainConfig | FinetuneConfig
    """Settings of the run, resolved."""
    networks: nn.Module
    """What is trained, on the device: the weights that require a gradient. Its whole state is in the checkpoints."""
    videos: VideoList
    """What it is trained on."""
    loader: GuardedLoader[Batch]
    facts: Mapping[str, Any] = {}
    """What `config.yaml` says of the run besides its settings, its videos and the versions."""
    selection: Selection = Selection()
    """Which epoch a classifier's tests have chosen so far, and the last of them."""

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch, device: torch.device) -> Measured:
        """Leave the gradient of the mean loss of this process's videos, on the CPU, in the weights of `model`.

        The model is the networks, wrapped for several GPUs.
        """

    def before_step(self, done: float) -> None:
        """Set what follows a schedule of the task's own, at the share of the run's steps that are done."""

    def restore_average(self, saved: RunState) -> None:
        """Go on with the moving average that a checkpoint holds, where the task keeps one."""

    def after_step(self) -> None:
        """Follow the weights that the optimiser has moved."""

    @abstractmethod
    def introduction(self) -> list[str]:
        """Return lines that say what is trained on what."""

    @abstractmethod
    def warnings(self) -> list[str]:
        """Return what looks unwise about the run, one sentence each."""

    @abstractmethod
    def checkpoint(self, **state: Any) -> RunState:  # noqa: ANN401
        """Return a checkpoint with the fields of `RunState`, which are given, and those of this kind."""

    def write_beside(self, run: RunFolder, progress: Progress) -> None:
        """Write what goes with `last.pt`, before it; in the first process. Raises CheckpointError."""

    @abstractmethod
    def is_finished(self, run: RunFolder, progress: Progress) -> bool:
        """Return whether nothing is left to do after the last epoch."""

    def show(self, training: "Training", batch: Batch, progress: Progress) -> None:
        """Show the epoch's last batch in TensorBoard, where pictures are due."""

    @abstractmethod
    def measure(self, training: "Training", progress: Progress) -> None:
        """Measure the networks between two epochs, where that is due and not yet done; in all processes."""

    def finish(self, training: "Training", progress: Progress) -> EvaluationResult | None:
        """Measure and write what a run ends with; in all processes."""
        return None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the loop works with; all but `model` stays the same object for the whole run."""

    task: Task[Any]
    run: RunFolder
    data: dict[str, Any]
    """What checkpoints say of the videos."""
    device: torch.device
    model: nn.Module
    """The task's networks, wrapped for several devices where there are several."""
    optimizer: torch.optim.Optimizer
    log: RunLog
    stop: StopRequest

    def save(self, progress: Progress) -> bool:
        """Write `last.pt`, and a numbered checkpoint where one is due; return and raise as `write_checkpoint`."""
        config = self.task.config
        is_due = progress.epoch % config.run.checkpoint_epochs == 0 or progress.epoch == config.optim.epochs
        if progress.step and progress.step_in_epoch == 0 and is_due:
            # Before `last.pt`: a run that is killed between the two repeats the epoch, and so writes it again.
            self.write_checkpoint(progress, self.run.numbered(progress.epoch))
        return self.write_checkpoint(progress, self.run.last)

    def write_checkpoint(self, progress: Progress, path: Path) -> bool:
        """Write one checkpoint, in the first process; where that fails, say so aloud and go on.

        Those before `last.pt` are kept. Returns whether it is written; True in the other processes. Raises
        TrainingError where a weight is not finite.
        """
        if not distributed.is_main():
            return True
        task, run = self.task, self.run
        checkpoint = task.checkpoint(
            progress=progress,
            model=finite_state(task.networks, progress, run),
            optimizer=self.optimizer.state_dict(),
            data=self.data,
            versions=versions(),
        )
        # The records that it counts as done.
        self.log.flush_to_disk()
        is_last = path == run.last
        try:
            if is_last:
                task.write_beside(run, progress)
            save_checkpoint(path, checkpoint, backups=run.before_last(task.config.run.keep_last - 1) if is_last else ())
        except CheckpointError as error:
            left = run.last_good()
            self.log.warn(f"CHECKPOINT NOT WRITTEN: {error}; {left}; make room: the next one is tried when it is due")
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended."""

    progress: Progress
    signal_number: int | None = None
    """The signal that stopped it; None when it is finished."""
    result: EvaluationResult | None = None
    """What fine-tuning measured, as in `result.json`; None where the run stopped or had finished before, and in all
    processes but the first."""
