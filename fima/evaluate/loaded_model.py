"""What an evaluation measures: an encoder of any program, with its classifier where the checkpoint has one."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fima.backbones.registry import BACKBONES, build_backbone
from fima.checkpoints.checkpoint import ClassifierCheckpoint, is_of_kind
from fima.checkpoints.classifier import LoadedClassifier, load_classifier
from fima.checkpoints.pretrained import encoder_file, load_pretrained
from fima.checkpoints.torch_file import read_content
from fima.data.eval_clips import ClipSettings
from fima.data.layouts.folder import HELD_OUT
from fima.errors import CheckpointError, ConfigError
from fima.evaluate.frozen import FrozenEncoder, check_fits
from fima.evaluate.other_encoders import open_other, program_hash, unknown_clips
from fima.evaluate.protocols import EvaluationConfig, SplitLists, SplitName
from fima.recipe import config_to_mapping


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder in eval mode and the clips that it is shown."""

    encoder: FrozenEncoder
    clips: ClipSettings
    classifier: LoadedClassifier | None = None
    """The classifier on that encoder, where the checkpoint is one of `fima finetune`."""
    has_maps: bool = True
    """Whether the encoder gives feature maps; others give one vector a clip."""
    source: str = ""
    cache: Path | None = None
    """Folder of its cached features; None: they are not kept."""

    @property
    def assumption(self) -> str:
        """What was assumed of a file that does not hold its settings, as a sentence; empty where nothing was."""
        return self.encoder.assumed(self.clips)

    def describe(self) -> dict[str, Any]:
        """What results say of it."""
        described = {
            "description": self.encoder.name,
            **self.encoder.about,
            "preprocessing": {"mean": self.encoder.mean, "std": self.encoder.std},
        }
        if self.assumption:
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
        """Raise ConfigError for another split of the classifier's own data set, whose test videos it was trained on."""
        if self.classifier is None or lists.test.classes != self.classifier.checkpoint.classes:
            return
        own = self.classifier.checkpoint.config.data.split
        if number != own:
            flag = f"--splits {number}" if isinstance(number, int) else f"fold {number}"
            raise ConfigError(
                f"{flag}: the checkpoint was trained on the labels of split {own}, whose training videos "
                f"are among its test videos; evaluate it on split {own}"
            )

    def doubt(self, lists: SplitLists) -> str | None:
        """Say where class folders have other training videos than the classifier's: their test videos move up, too."""
        before = {} if self.classifier is None else self.classifier.checkpoint.data
        train, number = lists.train, before.get("num_videos")
        if before.get("layout") != train.layout or not train.layout.endswith(HELD_OUT) or number == len(train.videos):
            return None
        return (
            f"{train.root}: {len(train.videos)} training videos, where the classifier had {number}: files were added "
            "or are gone, so other ones are held out for testing, and it may have been trained on some of these"
        )

    def check_classes(self, lists: SplitLists) -> None:
        """Raise CheckpointError, with the first class that differs, for data of other classes than the classifier's."""
        assert self.classifier is not None, "only for a classifier"
        own, given = self.classifier.checkpoint.classes, lists.test.classes
        if own == given:
            return
        first = next(((a, b) for a, b in zip(own, given, strict=False) if a != b), None)
        what = f"{len(own)} classes, not {len(given)}" if first is None else f"`{first[0]}` where it has `{first[1]}`"
        raise CheckpointError(
            f"{self.source}: its classifier is not for the classes of {lists.test.root} ({what}); "
            "measure its encoder: --protocols linear knn retrieval"
        )


def load_subject(
    source: str | Path, *, config: EvaluationConfig, device: torch.device, backbone: str | None = None
) -> Subject:
    """Load any encoder that `open_other` or `load_pretrained` opens, and its classifier where it has one of ours.

    The source is a file, a folder, or a name; `backbone` the architecture that a checkpoint must have, if any. Raises
    ConfigError for clips that the encoder cannot take, and what `open_other` and `load_pretrained` raise.
    """
    encoder, classifier = open_other(str(source)), None
    is_ours = encoder is None
    if encoder is None:
        path = encoder_file(Path(source))
        encoder = open_checkpoint(path, backbone=backbone, device=device)
        is_whole = encoder.about["config"] is not None and zipfile.is_zipfile(path)
        if is_whole and is_of_kind(read_content(path), ClassifierCheckpoint):
            classifier = load_classifier(path, device=device)
            encoder = replace(encoder, network=classifier.model.encoder)
    elif backbone is not None:
        raise ConfigError(f"--backbone {backbone}: is for checkpoints; {source} names its own architecture")
    clips = config.clips_for(encoder.clips)
    encoder.module.to(device)
    has_maps = True
    if not is_ours or (clips.frames, clips.crop_size) != (encoder.clips.frames, encoder.clips.crop_size):
        has_maps = check_fits(encoder.module, clips, name=encoder.name, device=device) or is_ours
    return Subject(encoder=encoder, clips=clips, classifier=classifier, has_maps=has_maps, source=str(source))


def _program_of(backbone: str, encoder: nn.Module) -> str:
    """The hash of a plug-in's program; of our own backbones, none."""
    return "" if backbone in BACKBONES.built_in else f" {program_hash(type(encoder).__module__)}".rstrip()


def open_checkpoint(path: Path, *, backbone: str | None = None, device: torch.device) -> FrozenEncoder:
    """Open an encoder of ours as evaluation knows all of them; arguments and errors are those of `load_pretrained`."""
    loaded = load_pretrained(path, backbone=backbone, device=device)
    backbone = loaded.config.model.backbone
    return FrozenEncoder(
        name=loaded.description,
        network=loaded.encoder,
        clips=ClipSettings.of(loaded.config.data),
        identity=f"checkpoint {loaded.checkpoint_hash}{_program_of(backbone, loaded.encoder)}",
        untrained=lambda: build_backbone(backbone),
        file=loaded.file,
        assumption="" if loaded.knows_settings else unknown_clips(backbone, loaded.method),
        about={
            "checkpoint_hash": loaded.checkpoint_hash,
            "epoch": loaded.epoch,
            "config": config_to_mapping(loaded.config) if loaded.knows_settings else None,
            "backbone": backbone,
        },
    )
