"""What is decided before a classifier's first step: the encoder, the lists of videos, and the settings that follow."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from fima.backbones.base import Backbone
from fima.backbones.registry import build_backbone, check_backbone
from fima.checkpoints.checkpoint import ClassifierCheckpoint
from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.config import DataConfig, FinetuneConfig
from fima.config.checks import as_flag
from fima.data.clips import TIMING
from fima.data.datasets import VideoList
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import CENTRE_SHARE, square_crops
from fima.data.labelled import require_labels
from fima.data.subsets import hold_out, low_shot
from fima.data.training_sets import chosen_videos
from fima.errors import CheckpointError, ConfigError, DataError, VideoError
from fima.evaluate.cam import MaskLoader
from fima.recipe import flatten
from fima.synthetic.motion_textures import has_masks, list_counterparts, load_mask
from fima.train.optimizer import optimizer_class, refuse_frozen_random_weights
from fima.train.resolve import with_precision

SCRATCH = "scratch"
NARROW_SHARE = 0.6
"""Smallest share of the short side that the crops of a test may cover without a warning."""
WITHOUT_MEANING = (
    "data.part",
    "data.held_out_share",
    "data.clip_sampling",
    "data.windows_per_video",
    "data.mixing",
    "run.health_epochs",
    "run.health_videos",
    "run.on_collapse",
    "run.probe",
    "run.picture_epochs",
    "optim.ema_decay",
)
"""Settings of pre-training alone, which a fine-tuning run leaves at their defaults."""


@dataclass(frozen=True, kw_only=True)
class LabelledLists:
    """The videos of a fine-tuning run."""

    train: VideoList
    test: VideoList
    validation: VideoList | None
    """Training videos held out of the training to choose the epoch; None where nothing is chosen on them."""
    counterparts: Mapping[str, VideoList] = dataclasses.field(default_factory=dict)
    """The test videos with other backgrounds and without any, by name, where there are such."""
    load_mask: MaskLoader | None = None
    """From a test video's path to the mask of what moves; None where there are no masks."""


@dataclass(frozen=True, kw_only=True)
class TrainedClips:
    """The size and the timing of the clips that an encoder was trained on."""

    frames: int
    crop_size: int
    """Side of the crops, in pixels."""
    timing: Mapping[str, Any]
    """`stride`, `fps` and `span` of `DataConfig`."""

    @classmethod
    def of(cls, data: DataConfig) -> "TrainedClips":
        """Those of a run."""
        timing = {name: getattr(data, name) for name in TIMING}
        return cls(frames=data.frames, crop_size=data.crop_size, timing=timing)

    def cover(self, other: "TrainedClips") -> bool:
        """Whether the others are among these: the same, or with a span within this range of spans."""
        spans, inner = self.timing["span"], other.timing["span"]
        if spans and inner and spans[0] <= inner[0] <= inner[1] <= spans[1]:
            return (self.frames, self.crop_size) == (other.frames, other.crop_size)
        return self == other

    def __str__(self) -> str:
        usual = TrainedClips.of(DataConfig()).timing
        named = [f"{name} {value}" for name, value in self.timing.items() if value != usual[name]]
        return ", ".join([f"{self.frames} frames", f"{self.crop_size} px", *named])


@dataclass(frozen=True, kw_only=True)
class PretrainedEncoder:
    """The encoder that a run begins from."""

    network: Backbone
    """On the CPU."""
    backbone: str
    source: dict[str, Any]
    """Which file it is from, the file's hash and what it holds; `{"file": "scratch"}` for random weights."""
    clips: TrainedClips | None = None
    """Those that it was trained on; None for random weights, and for a file that does not say."""


def check_settings(config: FinetuneConfig) -> None:
    """Raise ConfigError, with the flag, for settings that would do nothing, or would train on the test split."""
    given, defaults = flatten(config), flatten(FinetuneConfig())
    for flag in WITHOUT_MEANING:
        if given[flag] != defaults[flag]:
            what = f"{as_flag(flag)} {given[flag]}"
            raise ConfigError(f"{what}: a setting of pre-training; it has no place in fine-tuning")
    optimizer_class(config.optim.name)
    if config.classifier.freeze:
        for flag in ("optim.encoder_lr_scale", "optim.freeze_epochs"):
            if given[flag] != defaults[flag]:
                what = f"{as_flag(flag)} {given[flag]}"
                raise ConfigError(f"{what}: does nothing with --classifier.freeze; leave out one of them")
    if config.classifier.backbone is not None:
        check_backbone(config.classifier.backbone, flag="classifier.backbone")


def find_encoder(pretrained: Path | None, config: FinetuneConfig) -> PretrainedEncoder:
    """Load the pre-trained encoder, or build one with random weights that follow from the seed.

    Raises ConfigError for random weights of no backbone; CheckpointError as `load_pretrained`.
    """
    backbone = config.classifier.backbone
    if pretrained is None:
        if backbone is None:
            raise ConfigError(f"{SCRATCH}: random weights of which encoder? Give --classifier.backbone")
        refuse_frozen_random_weights(config.optim, "give an encoder that is trained")
        torch.manual_seed(config.run.seed)
        return PretrainedEncoder(network=build_backbone(backbone), backbone=backbone, source={"file": SCRATCH})
    loaded = load_pretrained(pretrained, backbone=backbone, device=torch.device("cpu"))
    source = {
        "file": str(pretrained.resolve()),
        "checkpoint_hash": loaded.checkpoint_hash,
        "description": loaded.description,
        "method": loaded.method,
        "epoch": loaded.epoch,
    }
    trained = loaded.config.data
    return PretrainedEncoder(
        network=cast(Backbone, loaded.encoder),
        backbone=loaded.config.model.backbone,
        source=source,
        clips=TrainedClips.of(trained) if loaded.knows_settings else None,
    )


def find_lists(config: FinetuneConfig, data: Path) -> LabelledLists:
    """List the videos to train on, to test on and, where `classifier.select` is `validation`, to choose the epoch on.

    With `classifier.low_shot`, the videos to choose on are taken from the few, so no further label is used. Raises
    DataError for videos without a class or other classes in the test split, ConfigError for another `num_classes`.
    """
    settings, classifier = config.data, config.classifier
    train, test = chosen_videos(data, settings, "train"), chosen_videos(data, settings, "test")
    require_labels(train)
    require_labels(test)
    if test.classes != train.classes:
        raise DataError(f"{data}: the test split has other classes than the training split; both need the same ones")
    if classifier.num_classes not in (None, len(train.classes)):
        raise ConfigError(
            f"--classifier.num-classes {classifier.num_classes}: {data} has {len(train.classes)} classes "
            f"({train.layout}); leave the flag out, or give the data that it is meant for"
        )
    if classifier.low_shot is not None:
        train = low_shot(train, classifier.low_shot, config.run.seed)
    validation = None
    if classifier.select == "validation":
        train, validation = hold_out(train, classifier.held_out_share, config.run.seed)
    masked = has_masks(data)
    counterparts = list_counterparts(data) if masked else {}
    return LabelledLists(
        train=train,
        test=test,
        validation=validation,
        # Listed in another layout than their own, the classes may have another order.
        counterparts={name: videos for name, videos in counterparts.items() if videos.classes == train.classes},
        load_mask=load_mask if masked else None,
    )


def resolve(
    config: FinetuneConfig, encoder: PretrainedEncoder, lists: LabelledLists, device: torch.device
) -> FinetuneConfig:
    """Return the settings with everything that follows from the encoder, the data and the device filled in.

    Frames, crop size and timing that are not given are those that the encoder was trained on, or the paper's.
    """
    published = TrainedClips.of(DataConfig())
    clips = encoder.clips or published
    given = TrainedClips.of(config.data).timing
    data = dataclasses.replace(
        config.data,
        frames=config.data.frames or clips.frames,
        crop_size=config.data.crop_size or clips.crop_size,
        **(clips.timing if given == published.timing else given),
    )
    found = dataclasses.replace(
        config.classifier,
        backbone=cast(Any, encoder.backbone),
        num_classes=len(lists.train.classes),
        dropout=0.0 if config.classifier.freeze else config.classifier.dropout,
    )
    return with_precision(dataclasses.replace(config, classifier=found, data=data), device)


def clips_in_words(config: FinetuneConfig, encoder: PretrainedEncoder) -> tuple[str, str | None]:
    """Say in a few words which clips a run is shown, and warn where the encoder was trained on others."""
    given = TrainedClips.of(config.data)
    if encoder.clips is not None and given.cover(encoder.clips):
        how = "as it was trained" if given == encoder.clips else "among which are those of its training"
        return f"clips of {given}, {how}", None
    if encoder.clips is not None:
        return f"clips of {given}", (
            f"--data.frames {given.frames}, --data.crop-size {given.crop_size}: the encoder was trained on clips of "
            f"{encoder.clips}, which a run takes that names no others"
        )
    unknown = "" if encoder.source["file"] == SCRATCH else " (the file does not say which it was trained on)"
    return f"clips of {given}{unknown}", None


def narrow_test(config: FinetuneConfig, lists: LabelledLists) -> str | None:
    """Warn of test crops that would leave out most of a frame; the first test video stands for the others."""
    resolution, path = config.test.ori_resolution, lists.test.videos[0].path
    if resolution is None:
        return None
    try:
        with VideoReader(path) as reader:
            short_side = min(reader.width, reader.height)
    except VideoError:
        return None
    (crop,) = square_crops(short_side, short_side, 1, resolution)
    if crop.width >= NARROW_SHARE * short_side:
        return None
    return (
        f"--test.ori-resolution {resolution}: the test crops are {crop.width} pixels of videos of {short_side}, as "
        f"published for videos of {resolution}; --test.ori-resolution None takes {CENTRE_SHARE} of the short side"
    )


def published_schedule(config: FinetuneConfig) -> str | None:
    """Point to the settings for a few hundred videos where the encoder for them is trained by the paper's schedule."""
    if config.classifier.backbone != "small" or config.optim != FinetuneConfig().optim:
        return None
    return "the schedule is the paper's for UCF101; --preset small_finetune has settings for a few hundred videos"


def check_same_task(
    saved: ClassifierCheckpoint, run: RunFolder, encoder: PretrainedEncoder, lists: LabelledLists
) -> None:
    """Raise DataError where a run would go on with other classes, CheckpointError with another encoder."""
    if saved.classes != lists.train.classes:
        raise DataError(f"{lists.train.root}: its classes are not those that the run in {run.root} was started with")
    before, now = (source.get("checkpoint_hash", SCRATCH) for source in (saved.source, encoder.source))
    if before != now:
        raise CheckpointError(
            f"{encoder.source['file']} ({now}): the run in {run.root} was started from {saved.source['file']} "
            f"({before}); give that, or start a new run in another --out"
        )
