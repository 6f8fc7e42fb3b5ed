"""What a fine-tuning run works with, and how it is saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fima.checkpoints.checkpoint import Progress, versions
from fima.checkpoints.classifier import Classifier
from fima.checkpoints.classifier_checkpoint import ClassifierCheckpoint, Selection, save_classifier_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig
from fima.data.labelled import LabelledBatch
from fima.data.workers.crash_guard import GuardedLoader
from fima.torch_tools import distributed
from fima.train.finetune_setup import LabelledLists
from fima.train.log import RunLog
from fima.train.running import finite_state, numbered_is_due, random_state, save_or_warn
from fima.train.signals import StopRequest


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """What the loop works with; all of it stays the same object for the whole run."""

    config: FinetuneConfig
    run: RunFolder
    lists: LabelledLists
    data: dict[str, Any]
    """What checkpoints say of the training videos."""
    source: dict[str, Any]
    device: torch.device
    classifier: Classifier
    model: nn.Module
    """The classifier, wrapped for several devices where there are several."""
    optimizer: torch.optim.SGD
    loader: GuardedLoader[LabelledBatch]
    log: RunLog
    stop: StopRequest


def save(training: Finetuning, progress: Progress, selection: Selection) -> bool:
    """Write `last.pt`, and a numbered checkpoint where one is due.

    Returns:
        Whether `last.pt` is written; True in the processes beside the first.

    Raises:
        TrainingError: a weight is not finite; the checkpoints stay as they were.
    """
    run = training.run
    if numbered_is_due(training.config, progress):
        # Before `last.pt`: a run that is killed between the two repeats the epoch, and so writes it again.
        write(training, run.numbered(progress.epoch), progress, selection)
    return write(training, run.last, progress, selection, run.before_last(training.config.run.keep_last - 1))


def write(
    training: Finetuning, path: Path, progress: Progress, selection: Selection, backups: Sequence[Path] = ()
) -> bool:
    """Write one checkpoint, in the first process; return whether that went well."""
    if not distributed.is_main():
        return True
    checkpoint = ClassifierCheckpoint(
        config=training.config,
        classes=training.lists.train.classes,
        source=training.source,
        progress=progress,
        selection=selection,
        model=finite_state(training.classifier, progress, training.run),
        optimizer=training.optimizer.state_dict(),
        rng=random_state(training.device),
        data=training.data,
        versions=versions(),
    )
    return save_or_warn(training, lambda: save_classifier_checkpoint(path, checkpoint, backups=backups))
