"""The result of fine-tuning or of linear probing by SGD: figures, and everything that they depend on."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fima.checkpoints.checkpoint import versions
from fima.config import ClassifierConfig, FinetuneConfig
from fima.data.clips import TIMING
from fima.data.datasets import VideoList
from fima.evaluate.classifier_scores import ClassifierScores
from fima.evaluate.measured import Measured, by_figure, class_figures, decoded
from fima.evaluate.protocols import EvaluationResult
from fima.torch_tools import distributed

PROTOCOL_VERSION = 1
AUGMENTATION = ("min_area", "max_area", "flip", "grayscale", "jitter", "blur", "step_between_clips")


def protocol_name(classifier: ClassifierConfig) -> str:
    """Return `finetune`, or `linear_sgd` where the encoder is frozen."""
    return "linear_sgd" if classifier.freeze else "finetune"


def averages_log_softmax(classifier: ClassifierConfig) -> bool:
    """Whether the published test averages log-probabilities (I3D) or logits (all others) over the clips."""
    return classifier.backbone == "i3d"


def classifier_result(
    config: FinetuneConfig,
    *,
    lists: Mapping[str, VideoList],
    scores: Mapping[str, ClassifierScores],
    foreground: Measured,
    source: dict[str, Any],
    epoch: int,
    selected_by: float | None,
) -> EvaluationResult:
    """Put together what a run has measured.

    Args:
        config: the settings, resolved.
        lists: by name, the videos that it trained on, `train`; those that the epoch was chosen on, `validation`, where
            there are such; the test split, `test`, and its counterparts.
        scores: of the test split and its counterparts.
        foreground: which part of the activation falls on what moves.
        source: what the encoder began from.
        epoch: whole epochs behind the tested weights.
        selected_by: top-1 that chose them, in percent; None for the last epoch.
    """
    name = protocol_name(config.classifier)
    data = {key: dict[str, Any](videos.describe()) for key, videos in lists.items()}
    for test, found in scores.items():
        data[test] |= decoded(found.paths, found.undecodable)
    figures, chance = class_figures(
        {test: (found.scores, found.labels) for test, found in scores.items()}, len(lists["test"].classes)
    )
    measured = {
        name: Measured(
            figures=figures,
            chance=chance,
            settings=protocol_settings(config, len(lists["validation"].videos) if "validation" in lists else 0),
            notes={"epoch": epoch, "top1_that_chose_it": selected_by},
        ),
        "foreground": foreground,
    }
    return EvaluationResult(
        figures=by_figure(measured, "figures"),
        chance=by_figure(measured, "chance"),
        encoder={"backbone": config.classifier.backbone, **source},
        protocols={protocol: found.settings for protocol, found in measured.items()},
        data=data,
        versions=versions(),
        notes={protocol: found.notes for protocol, found in measured.items() if found.notes},
    )


def protocol_settings(config: FinetuneConfig, num_held_out: int) -> dict[str, Any]:
    """Return the version and every setting of the protocol; `num_held_out` videos choose the epoch, where they do."""
    classifier, data, test = config.classifier, config.data, config.test
    selection = {
        "last": "the last epoch",
        "validation": f"the epoch with the highest top-1 on {num_held_out} videos held out of the training split",
        "test": "the epoch with the highest top-1 on the TEST split, so the figure flatters",
    }[classifier.select]
    averaged = "log-softmax" if averages_log_softmax(classifier) else "logits"
    return {
        "version": PROTOCOL_VERSION,
        "trained": "linear layer; the encoder is frozen" if classifier.freeze else "encoder and linear layer",
        "optimizer": asdict(config.optim),
        "dropout": classifier.dropout,
        "batch_norm": "running statistics of the pre-training" if classifier.freeze else "trained, by device",
        "l2_normalise": classifier.l2_normalise,
        "pooled_over": "2 x 2 x 2 parts of the clip" if classifier.grid else "the clip",
        "training_clips": {
            "frames": data.frames,
            "crop_size": data.crop_size,
            **{name: getattr(data, name) for name in (*TIMING, *AUGMENTATION)},
        },
        "test_clips": {
            "frames": data.frames,
            "crop_size": data.crop_size,
            "num_clips": test.clips,
            "num_crops": test.crops,
            "ori_resolution": test.ori_resolution,
        },
        "score": f"{averaged} averaged over {test.clips} clips x {test.crops} crops",
        "dataset": data.dataset,
        "split": data.split,
        "selection": selection,
        "low_shot": classifier.low_shot,
        "seed": config.run.seed,
        "precision": {"training": config.run.precision, "test": "fp32"},
        "processes": distributed.world_size(),
    }
