"""What is decided before a classifier's first step: the encoder, the lists of videos, and the settings that follow."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fima.backbones.registry import BACKBONES, build_backbone
from fima.checkpoints.checkpoint import SCRATCH, ClassifierCheckpoint, LoadedEncoder
from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.config import DataConfig, FinetuneConfig, ModelConfig, PretrainConfig
from fima.config.checks import require
from fima.data.clips import TIMING
from fima.data.datasets import VideoList
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import CENTRE_SHARE, square_crops
from fima.data.labelled import require_labels
from fima.data.layouts.table import read_groups
from fima.data.subsets import hold_out, low_shot
from fima.data.training_sets import chosen_videos
from fima.errors import CheckpointError, ConfigError, DataError, VideoError, warn
from fima.evaluate.cam import MaskLoader
from fima.recipe import flatten
from fima.synthetic.motion_textures import has_masks, list_counterparts, load_mask
from fima.torch_tools import distributed
from fima.train.optimizer import optimizer_class, refuse_frozen_random_weights
from fima.train.resolve import with_precision
from fima.train.resume import labels_fingerprint

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
WITHOUT_MEANING_FROZEN = ("optim.encoder_lr_scale", "optim.freeze_epochs")


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


def check_settings(config: FinetuneConfig) -> None:
    """Raise ConfigError, with the flag, for settings that would do nothing, or would train on the test split."""
    given, defaults = flatten(config), flatten(FinetuneConfig())
    idle = dict.fromkeys(WITHOUT_MEANING, "a setting of pre-training; it has no place in fine-tuning")
    if config.classifier.freeze:
        idle |= dict.fromkeys(WITHOUT_MEANING_FROZEN, "does nothing with --classifier.freeze; leave out one of them")
    for flag, rule in idle.items():
        require(given[flag] == defaults[flag], flag, given[flag], rule)
    optimizer_class(config.optim.name)
    if config.classifier.backbone is not None:
        BACKBONES.check(config.classifier.backbone, flag="classifier.backbone")


def find_encoder(pretrained: Path | None, config: FinetuneConfig) -> LoadedEncoder:
    """Load the pre-trained encoder, or build one with random weights that follow from the seed.

    Raises ConfigError for random weights of no backbone; CheckpointError as `load_pretrained`.
    """
    backbone = config.classifier.backbone
    if pretrained is not None:
        return load_pretrained(pretrained, backbone=backbone, device=torch.device("cpu"))
    if backbone is None:
        raise ConfigError(f"{SCRATCH}: random weights of which encoder? Give --classifier.backbone")
    refuse_frozen_random_weights(config.optim, "give an encoder that is trained")
    torch.manual_seed(config.run.seed)
    return LoadedEncoder(
        encoder=build_backbone(backbone),
        config=PretrainConfig(model=ModelConfig(backbone=backbone)),
        checkpoint_hash=SCRATCH,
        epoch=None,
        method=SCRATCH,
        knows_settings=False,
    )


def stand_in(pretrained: Path | None, run: RunFolder) -> LoadedEncoder | None:
    """Return an encoder with other weights for a resumed run whose pre-trained file is gone: its checkpoint has all.

    None where the file is there, or was not what the run began from, or the run has no checkpoint yet.
    """
    source = run.record().get("source") or {}
    begun = Path(source.get("file", SCRATCH))
    is_own = pretrained is not None and pretrained.resolve() in (begun, *begun.parents)
    if not is_own or begun.exists() or not run.to_resume_from():
        return None
    if distributed.is_main():
        warn(f"{begun}: no longer there; the run goes on with what its own checkpoint holds")
    begun_with = run.read_config(FinetuneConfig)
    backbone = begun_with.classifier.backbone
    assert backbone is not None, "recorded as it was found"
    return LoadedEncoder(
        encoder=build_backbone(backbone),
        config=PretrainConfig(model=ModelConfig(backbone=backbone), data=begun_with.data),
        checkpoint_hash=source.get("checkpoint_hash", ""),
        epoch=source.get("epoch"),
        method=source.get("method", "encoder"),
        file=begun,
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
    count = len(train.classes)
    # In a run that goes on, the number is that of its settings, without a flag that could be left out.
    rule = f"{data} has {count} classes ({train.layout}); give data with as many, or start a new run without the flag"
    require(classifier.num_classes in (None, count), "classifier.num_classes", classifier.num_classes, rule)
    if classifier.low_shot is not None:
        train = low_shot(train, classifier.low_shot, config.run.seed)
    validation = None
    if classifier.select == "validation":
        groups = read_groups(train, data, settings.annotations)
        train, validation = hold_out(train, classifier.held_out_share, config.run.seed, groups)
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
    config: FinetuneConfig, encoder: LoadedEncoder, lists: LabelledLists, device: torch.device
) -> FinetuneConfig:
    """Return the settings with what follows from encoder (frames, crop size, timing), data and device filled in."""
    given, trained = config.data, encoder.config.data
    timed = trained if _timing(given) == _timing(DataConfig()) else given
    data = dataclasses.replace(
        given,
        frames=given.frames or trained.frames,
        crop_size=given.crop_size or trained.crop_size,
        **_timing(timed),
    )
    found = dataclasses.replace(
        config.classifier,
        backbone=encoder.config.model.backbone,
        num_classes=len(lists.train.classes),
        dropout=0.0 if config.classifier.freeze else config.classifier.dropout,
    )
    return with_precision(dataclasses.replace(config, classifier=found, data=data), device)


def clips_in_words(config: FinetuneConfig, encoder: LoadedEncoder) -> tuple[str, str | None]:
    """Say in a few words which clips a run is shown, and warn where the encoder was trained on others."""
    given, trained = config.data, encoder.config.data
    shown = f"clips of {clips_shown(given)}"
    if not encoder.knows_settings:
        return f"{shown}{'' if encoder.file is None else ' (the file does not say which it was trained on)'}", None
    if cover(given, trained):
        is_same = clips_shown(given) == clips_shown(trained)
        return f"{shown}, {'as it was trained' if is_same else 'among which are those of its training'}", None
    return shown, (
        f"--data.frames {given.frames}, --data.crop-size {given.crop_size}: the encoder was trained on clips of "
        f"{clips_shown(trained)}, which a run takes that names no others"
    )


def cover(given: DataConfig, trained: DataConfig) -> bool:
    """Whether the clips of a training are among those that are given: the same, or of a span within theirs."""
    spans, inner = given.span, trained.span
    if spans and inner and spans[0] <= inner[0] <= inner[1] <= spans[1]:
        return (given.frames, given.crop_size) == (trained.frames, trained.crop_size)
    return all(getattr(given, name) == getattr(trained, name) for name in ("frames", "crop_size", *TIMING))


def clips_shown(data: DataConfig) -> str:
    """Return size and timing of clips in words; the paper's stride is not named."""
    usual = _timing(DataConfig())
    timing = [f"{name} {value}" for name, value in _timing(data).items() if value != usual[name]]
    return ", ".join([f"{data.frames} frames", f"{data.crop_size} px", *timing])


def _timing(data: DataConfig) -> dict[str, Any]:
    return {name: getattr(data, name) for name in TIMING}


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


def check_same_task(saved: ClassifierCheckpoint, run: RunFolder, encoder: LoadedEncoder, lists: LabelledLists) -> None:
    """Raise DataError where a run would go on with other classes or labels, CheckpointError with another encoder.

    A file that its pre-training has written again since is the same one: the run goes on with its own weights.
    """
    changed = "its classes are" if saved.classes != lists.train.classes else ""
    if saved.data.get("labels") not in (None, labels_fingerprint(lists.train)):
        changed = changed or "the labels of its training videos are"
    if changed:
        remedy = "give its data, or start a new run in another --out"
        raise DataError(f"{lists.train.root}: {changed} not those that the run in {run.root} began with; {remedy}")
    begun, given = saved.source, encoder.source
    before, now = (source.get("checkpoint_hash", SCRATCH) for source in (begun, given))
    if before == now:
        return
    if SCRATCH in (before, now) or given["file"] != begun["file"]:
        raise CheckpointError(
            f"{given['file']} ({now}): the run in {run.root} was started from {begun['file']} ({before}); give that, "
            "or start a new run in another --out"
        )
    if distributed.is_main():
        warn(
            f"{given['file']} has changed since the run in {run.root} began; it goes on with what it has learnt from "
            "the weights of that time, and not with the new ones"
        )
