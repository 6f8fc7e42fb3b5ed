"""The protocols that look at the videos themselves: a checkpoint's own classifier, and its activation on the object."""

from dataclasses import asdict, replace
from typing import Any

from torch import nn

from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.evaluate.cam import MOVING_SHARE, ForegroundShare, MaskLoader, foreground_share, occlusion_share
from fima.evaluate.classifier_result import averages_log_softmax
from fima.evaluate.classifier_scores import test_classifier
from fima.evaluate.extract import Resources
from fima.evaluate.loaded_model import Subject
from fima.evaluate.measured import Measured, class_figures, decoded
from fima.evaluate.occlusion import PATCHES
from fima.evaluate.protocols import PROTOCOL_VERSIONS, SplitLists


def measure_classifier(
    subject: Subject, lists: SplitLists, resources: Resources
) -> tuple[Measured, dict[str, dict[str, Any]]]:
    """Run the protocol `evaluate`: the checkpoint's own classifier, its scores averaged over clips and crops.

    Returns what was found, and which videos of each test list of the split were decoded.

    Raises:
        DataError: not one video of a list can be decoded.
    """
    assert subject.classifier is not None, "checked when the protocols were chosen"
    trained = subject.classifier.checkpoint.config
    clips = subject.clips
    resolution = trained.test.ori_resolution if clips.ori_resolution is None else clips.ori_resolution
    log_softmax = averages_log_softmax(trained.classifier)
    tested = {
        name: test_classifier(
            subject.classifier.model,
            videos,
            replace(clips, ori_resolution=resolution),
            replace(resources, batch_size=resources.batch_size * clips.num_clips * clips.num_crops),
            log_softmax=log_softmax,
        )
        for name, videos in lists.tests.items()
    }
    scores = {name: (found.scores, found.labels) for name, found in tested.items()}
    figures, chance = class_figures(scores, len(lists.test.classes))
    settings = {
        "version": PROTOCOL_VERSIONS["evaluate"],
        "clips": asdict(replace(clips, ori_resolution=resolution)),
        "averaged": "log-softmax over clips and crops" if log_softmax else "logits over clips and crops",
        "encoder": "frozen (linear probe by SGD)" if trained.classifier.freeze else "fine-tuned",
        "l2_normalise": trained.classifier.l2_normalise,
        "pooled_over": "2 x 2 x 2 parts of the clip" if trained.classifier.grid else "the clip",
        "dropout": trained.classifier.dropout,
        "batch_norm": "running statistics",
        "optim": asdict(trained.optim),
        "selection": trained.classifier.select,
        "trained_on_split": trained.data.split,
    }
    evaluated = {name: decoded(found.paths, found.undecodable) for name, found in tested.items()}
    return Measured(figures=figures, chance=chance, settings=settings, scores=scores), evaluated


def measure_foreground(
    encoder: nn.Module, clips: ClipSettings, test: VideoList, load_mask: MaskLoader | None, resources: Resources
) -> Measured:
    """Run the protocol `foreground`: which part of the activation falls on what moves.

    Arguments and errors are those of `foreground_share`.
    """
    found = foreground_share(encoder, test, load_mask, clips, resources)
    settings = {
        "clips": {**asdict(clips), "num_crops": 1},
        "share": "map of RGB plus map of the frame difference, each the mean over channels and time; minus its minimum",
        "rgb_share": "map of RGB alone, minus its minimum",
        "batch_norm": "running statistics for RGB; for differences, statistics measured on those of "
        f"{found.num_adapted} test videos, {resources.batch_size} at a time",
    }
    return _measured("foreground", found, settings)


def measure_occlusion(
    encoder: nn.Module, clips: ClipSettings, test: VideoList, load_mask: MaskLoader | None, resources: Resources
) -> Measured:
    """Run the protocol `occlusion`: which part of the change that covering makes falls on what moves.

    Arguments and errors are those of `occlusion_share`.
    """
    found = occlusion_share(encoder, test, load_mask, clips, resources)
    settings = {
        "clips": {**asdict(clips), "num_crops": 1, "num_clips": 1},
        "share": "map of 1 - cos(feature, feature with a grey square), minus its minimum",
        "squares": f"a quarter of the side, at {PATCHES} x {PATCHES} places, in all frames",
    }
    return _measured("occlusion", found, settings)


def _measured(protocol: str, found: ForegroundShare, settings: dict[str, Any]) -> Measured:
    common = {
        "version": PROTOCOL_VERSIONS[protocol],
        "motion_share": f"on the smallest part of the crop that holds {MOVING_SHARE} of the frame-difference energy",
        "num_videos": found.num_videos,
        "num_still_clips": found.num_still_clips,
    }
    return Measured(figures=found.figures, chance=found.chance, settings=common | settings)
