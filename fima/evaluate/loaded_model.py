"""What an evaluation measures: the encoder of any checkpoint, with its classifier where it has one."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fima.checkpoints.checkpoint import ClassifierCheckpoint, LoadedEncoder, is_of_kind, read_content
from fima.checkpoints.classifier import LoadedClassifier, load_classifier
from fima.checkpoints.pretrained import load_pretrained
from fima.data.eval_clips import ClipSettings
from fima.errors import CheckpointError, ConfigError
from fima.evaluate.protocols import EvaluationConfig, SplitLists, SplitName
from fima.recipe import config_to_mapping


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder in eval mode and the clips that it is shown."""

    loaded: LoadedEncoder
    """The encoder."""
    clips: ClipSettings
    """How clips are cut out of videos."""
    classifier: LoadedClassifier | None = None
    """The classifier on that encoder, where the checkpoint is one of `fima finetune`."""

    @property
    def assumption(self) -> str | None:
        """What was assumed of a file that does not hold its settings, as a sentence."""
        if self.loaded.knows_settings:
            return None
        return (
            f"the file does not say which clips it was trained on; it is shown {self.clips.frames} frames of "
            f"{self.clips.crop_size} px (the paper's are 16 of 224; change them with --frames, --crop-size)"
        )

    def describe(self) -> dict[str, Any]:
        """What results say of it."""
        described: dict[str, Any] = {
            "description": self.loaded.description,
            "checkpoint_hash": self.loaded.checkpoint_hash,
            "epoch": self.loaded.epoch,
            "config": config_to_mapping(self.loaded.config) if self.loaded.knows_settings else None,
            "backbone": self.loaded.config.model.backbone,
        }
        if self.assumption is not None:
            described["assumption"] = self.assumption
        if self.classifier is not None:
            checkpoint = self.classifier.checkpoint
            described["classifier"] = {
                "config": config_to_mapping(checkpoint.config),
                "source": checkpoint.source,
                "selection": vars(checkpoint.selection),
            }
        return described

    def own_split(self, dataset: str) -> int:
        """Return the number of the split to evaluate on: that of a classifier's training on its own data set, or 1."""
        if self.classifier is None or self.classifier.checkpoint.data.get("dataset") != dataset:
            return 1
        return self.classifier.checkpoint.config.data.split

    def check_split(self, number: SplitName, lists: SplitLists) -> None:
        """Refuse test videos that a classifier was trained on.

        Raises:
            ConfigError: another split of the classifier's own data set.
        """
        if self.classifier is None or lists.test.classes != self.classifier.checkpoint.classes:
            return
        own = self.classifier.checkpoint.config.data.split
        if number != own:
            flag = f"--splits {number}" if isinstance(number, int) else f"fold {number}"
            raise ConfigError(
                f"{flag}: the checkpoint was trained on the labels of split {own}, whose training videos "
                f"are among its test videos; evaluate it on split {own}"
            )

    def check_classes(self, lists: SplitLists, source: Path) -> None:
        """Refuse data of other classes than the classifier's.

        Raises:
            CheckpointError: names the first class that differs.
        """
        assert self.classifier is not None, "only for a classifier"
        own, given = self.classifier.checkpoint.classes, lists.test.classes
        if own == given:
            return
        pairs = zip(own, given, strict=False)
        first = next(((a, b) for a, b in pairs if a != b), None)
        what = f"{len(own)} classes, not {len(given)}" if first is None else f"`{first[0]}` where it has `{first[1]}`"
        raise CheckpointError(
            f"{source}: its classifier is not for the classes of {lists.test.root} ({what}); "
            "measure its encoder: --protocols linear knn retrieval"
        )


def load_subject(
    path: Path,
    *,
    config: EvaluationConfig,
    device: torch.device,
    backbone: str | None = None,
    frames: int | None = None,
    crop_size: int | None = None,
) -> Subject:
    """Load the encoder of any file that `load_pretrained` reads, and its classifier where it has one of ours.

    Args:
        path: the file.
        config: clips and crops of the evaluation.
        device: where the networks go.
        backbone: the architecture that the file must have; None takes what it holds.
        frames: frames per clip; None: as it was trained, or 16 where the file does not say.
        crop_size: side of the crops in pixels; None: as it was trained, or 224 where the file does not say.

    Raises:
        CheckpointError: as `load_pretrained`.
        ConfigError: clips that the encoder cannot take.
    """
    loaded = load_pretrained(path, backbone=backbone, device=device)
    classifier = None
    if loaded.knows_settings and zipfile.is_zipfile(path) and is_of_kind(read_content(path), ClassifierCheckpoint):
        classifier = load_classifier(path, device=device)
        loaded = replace(loaded, encoder=classifier.model.encoder)
    trained = ClipSettings.of(loaded.config.data, num_clips=config.num_clips)
    clips = replace(
        trained,
        frames=trained.frames if frames is None else frames,
        crop_size=trained.crop_size if crop_size is None else crop_size,
        num_crops=config.num_crops,
        ori_resolution=config.ori_resolution,
    )
    if frames is not None or crop_size is not None:
        check_fits(loaded.encoder, clips, backbone=loaded.config.model.backbone, device=device)
    return Subject(loaded=loaded, clips=clips, classifier=classifier)


def check_fits(encoder: nn.Module, clips: ClipSettings, *, backbone: str, device: torch.device) -> None:
    """Refuse clips that an encoder cannot take.

    Args:
        encoder: on `device`, in eval mode.
        clips: their frames and size.
        backbone: its name, for the message.
        device: where it is.

    Raises:
        ConfigError: they are too small.
    """
    blank = torch.zeros(1, 3, clips.frames, clips.crop_size, clips.crop_size, device=device)
    try:
        with torch.inference_mode():
            encoder(blank)
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise
        raise ConfigError(f"--frames {clips.frames} --crop-size {clips.crop_size}: too small for {backbone}") from None
