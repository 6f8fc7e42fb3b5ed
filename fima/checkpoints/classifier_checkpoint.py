"""Checkpoints of classifiers: written atomically, read without running code."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import CLASSIFIER_FORMAT, Progress, RunState, load_weights, read_content, write_content
from fima.checkpoints.classifier import Classifier
from fima.config import FinetuneConfig
from fima.errors import CheckpointError, ConfigError
from fima.recipe import config_from_mapping, config_to_mapping

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which epoch a run has chosen so far."""

    epoch: int | None = None
    """Whole epochs behind the best weights; None before the first test, and where the last epoch is the result."""
    top1: float | None = None
    """Top-1 that decided it, in percent."""
    tested_epoch: int = 0
    """Whole epochs behind the last test on the way."""


@dataclass(frozen=True, kw_only=True)
class ClassifierCheckpoint(RunState):
    """Everything that a fine-tuning run continues from."""

    config: FinetuneConfig
    """Settings of the run; the backbone and the number of classes are resolved."""
    classes: list[str]
    """Names of the classes, in the order of the logits."""
    source: dict[str, Any]
    """Which pre-trained file the run began from, its hash and what it held; `{"file": "scratch"}` for none."""
    selection: Selection = field(default_factory=Selection)
    """Which epoch is the best so far."""


@dataclass(frozen=True, kw_only=True)
class LoadedClassifier:
    """The classifier of a checkpoint, in eval mode."""

    model: Classifier
    """(B, 3, T, H, W) normalised RGB -> (B, classes)."""
    checkpoint: ClassifierCheckpoint
    """What else the file holds."""


def save_classifier_checkpoint(path: Path, checkpoint: ClassifierCheckpoint, *, backups: Sequence[Path] = ()) -> None:
    """Write a checkpoint so that `path` holds either the old file or the whole new one, even after a crash.

    Args:
        path: the file.
        checkpoint: what it will hold.
        backups: names for the checkpoints before, the newest first.

    Raises:
        CheckpointError: it cannot be written; the files are as they were.
    """
    plain = {
        "config": config_to_mapping(checkpoint.config),
        "progress": asdict(checkpoint.progress),
        "selection": asdict(checkpoint.selection),
    }
    content = {"format": CLASSIFIER_FORMAT, "format_version": FORMAT_VERSION, **vars(checkpoint), **plain}
    write_content(path, content, backups=backups)


def is_classifier_content(content: object) -> bool:
    """Whether what `read_content` found in a file is a checkpoint of `fima finetune`."""
    return isinstance(content, dict) and content.get("format") == CLASSIFIER_FORMAT


def load_classifier_checkpoint(path: Path) -> ClassifierCheckpoint:
    """Read a checkpoint of `fima finetune` onto the CPU, without running any code that it may hold.

    Raises:
        CheckpointError: the file is missing, damaged, of another program, or of a newer version of this one.
    """
    content = read_content(path)
    if not is_classifier_content(content):
        raise CheckpointError(f"{path}: a PyTorch file, but not a checkpoint of `fima finetune`")
    if content["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"{path}: written by a newer fima ({content['versions']['fima']}); update fima")
    names = ("model", "optimizer", "rng", "data", "versions", "classes", "source")
    try:
        return ClassifierCheckpoint(
            config=config_from_mapping(content["config"], FinetuneConfig, source=str(path)),
            progress=Progress(**content["progress"]),
            selection=Selection(**content["selection"]),
            **{name: content[name] for name in names},
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a complete checkpoint ({error})") from None


def load_classifier(path: Path, *, device: torch.device) -> LoadedClassifier:
    """Load the classifier of a checkpoint of `fima finetune` in eval mode.

    Raises:
        CheckpointError: as `load_classifier_checkpoint`, or the weights do not fit the backbone that the file names.
    """
    checkpoint = load_classifier_checkpoint(path)
    settings = checkpoint.config.classifier
    if settings.backbone is None:
        raise CheckpointError(f"{path}: not a complete checkpoint (it names no backbone)")
    model = Classifier(
        build_backbone(settings.backbone),
        len(checkpoint.classes),
        dropout=settings.dropout,
        l2_normalise=settings.l2_normalise,
        freeze=settings.freeze,
    )
    load_weights(model, checkpoint.model, source=path, what=f"classifier on {settings.backbone}")
    return LoadedClassifier(model=model.to(device).eval(), checkpoint=checkpoint)
