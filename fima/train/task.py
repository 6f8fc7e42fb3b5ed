"""What one kind of training has of its own, and what the loop works with; see pretrain.py and finetune.py."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import nn

from fima.checkpoints.checkpoint import Progress, RunState, Selection
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig, PretrainConfig
from fima.data.datasets import VideoList
from fima.data.workers.crash_guard import GuardedLoader
from fima.evaluate.protocols import EvaluationResult
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


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended."""

    progress: Progress
    signal_number: int | None = None
    """The signal that stopped it; None when it is finished."""
    result: EvaluationResult | None = None
    """What fine-tuning measured, as in `result.json`; None where the run stopped or had finished before, and in all
    processes but the first."""
