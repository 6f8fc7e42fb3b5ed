"""The protocols that look at features of a frozen encoder: linear probe, nearest neighbours, retrieval, same video."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import mean, stdev
from typing import Any, Literal

import torch
from torch import Tensor

from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.data.subsets import low_shot
from fima.evaluate.features import Features
from fima.evaluate.knn import NUM_NEIGHBOURS, TEMPERATURE, knn_scores
from fima.evaluate.linear import INVERSE_REGULARISATIONS, NUM_FOLDS, fit_linear_probe
from fima.evaluate.metrics import top_k_accuracy
from fima.evaluate.protocols import PROTOCOL_VERSIONS, EvaluationConfig
from fima.evaluate.retrieval import RANKS, retrieve, same_video_share

FEATURES = "of the frozen encoder in eval mode, mean over time and space"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one protocol found."""

    figures: dict[str, float]
    """In percent, without the name of the protocol."""
    chance: dict[str, float]
    """By the names of the figures."""
    settings: dict[str, Any]
    """Version and settings of the protocol."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was chosen on the way."""
    sd: dict[str, float] = field(default_factory=dict)
    """Of figures that are means."""
    scores: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By test list: class scores (V, classes) and labels (V,), for the reports by class."""


@dataclass(frozen=True, kw_only=True)
class FeatureSets:
    """Features of one split's lists."""

    train: Features
    """Of the training list."""
    tests: Mapping[str, Features]
    """Of the test lists, by name."""
    videos: VideoList
    """The training list itself."""

    @property
    def num_classes(self) -> int:
        """Classes of the data, with or without videos."""
        return len(self.videos.classes)


def measure(name: str, sets: FeatureSets, clips: ClipSettings, config: EvaluationConfig) -> dict[str, Measured]:
    """Run one protocol.

    Args:
        name: one of `FEATURE_PROTOCOLS`.
        sets: the features.
        clips: how clips were cut out of the videos, for the record.
        config: settings.

    Returns:
        By protocol: `linear` comes with `linear_low_shot` where that was asked for.

    Raises:
        DataError: too few training videos or classes for the linear probe.
    """
    match name:
        case "linear":
            found = {"linear": _linear(sets, config)}
            if config.low_shot is not None:
                found["linear_low_shot"] = _low_shot(sets, config, config.low_shot)
        case "knn":
            found = {"knn": _knn(sets)}
        case "retrieval":
            found = {"retrieval": _retrieval(sets)}
        case _:
            found = {"same_video": _same_video(sets.train, clips)}
    shared = {"clips": asdict(clips), "features": FEATURES}
    return {
        key: replace(each, settings={"version": PROTOCOL_VERSIONS[key], **shared, **each.settings})
        for key, each in found.items()
    }


def class_figures(scores: Mapping[str, tuple[Tensor, Tensor]], num_classes: int) -> tuple[dict[str, float], ...]:
    """Return top-1 and top-5 of each test list, in percent, and what guessing gets.

    Args:
        scores: by test list, class scores (V, classes) and labels (V,).
        num_classes: classes.
    """
    figures = {
        figure_name(test, f"top{k}"): top_k_accuracy(*found, k) for test, found in scores.items() for k in (1, 5)
    }
    chance = {figure_name(test, f"top{k}"): 100 * min(1.0, k / num_classes) for test in scores for k in (1, 5)}
    return figures, chance


def figure_name(test: str, figure: str) -> str:
    """Return a figure's name: the list `test` is not named."""
    return figure if test == "test" else f"{test}/{figure}"


def by_figure(measured: Mapping[str, Measured], attribute: Literal["figures", "chance", "sd"]) -> dict[str, float]:
    """Return one attribute of all protocols as `<protocol>/<figure>`."""
    return {
        f"{name}/{key}": value for name, found in measured.items() for key, value in getattr(found, attribute).items()
    }


def _linear(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    train = sets.train
    probe = fit_linear_probe(
        train.per_video,
        train.labels,
        num_classes=sets.num_classes,
        seed=config.seed,
        l2_normalise=config.l2_normalise,
    )
    scores = {name: (probe.scores(test.per_video), test.labels) for name, test in sets.tests.items()}
    figures, chance = class_figures(scores, sets.num_classes)
    return Measured(
        figures=figures,
        chance=chance,
        settings={
            "classifier": "logistic regression (L2, L-BFGS) on features averaged over clips and crops, standardised",
            "l2_normalise": config.l2_normalise,
            "dropout": 0,
            "augmentation": "none",
            "candidates": list(INVERSE_REGULARISATIONS),
            "selection": f"{NUM_FOLDS}-fold cross-validation on the training videos",
            "seed": config.seed,
        },
        notes={
            "inverse_regularisation": probe.inverse_regularisation,
            "held_out_accuracies": probe.held_out_accuracies,
        },
        scores=scores,
    )


def _low_shot(sets: FeatureSets, config: EvaluationConfig, count: int) -> Measured:
    """The linear probe on a few training videos; the mean over several draws of them."""
    row_of = {path: row for row, path in enumerate(sets.train.paths)}
    decodable = replace(sets.videos, videos=[video for video in sets.videos.videos if str(video.path) in row_of])
    draws = []
    for number in range(config.low_shot_draws):
        part = low_shot(decodable, count, config.seed + number)
        rows = torch.tensor([row_of[str(video.path)] for video in part.videos])
        train = replace(sets.train, pooled=sets.train.pooled[rows], labels=sets.train.labels[rows])
        draws.append(_linear(replace(sets, train=train), config))
    by_figure = {name: [draw.figures[name] for draw in draws] for name in draws[0].figures}
    spread = {name: stdev(values) for name, values in by_figure.items()} if len(draws) > 1 else {}
    return Measured(
        figures={name: mean(values) for name, values in by_figure.items()},
        chance=draws[0].chance,
        settings={
            **draws[0].settings,
            "num_videos": count,
            "num_draws": len(draws),
            "draw": "as evenly from the classes as possible",
        },
        notes={"figures": by_figure, "inverse_regularisation": [d.notes["inverse_regularisation"] for d in draws]},
        sd=spread,
    )


def _knn(sets: FeatureSets) -> Measured:
    train = sets.train
    scores = {
        name: (knn_scores(train.per_video, train.labels, test.per_video, num_classes=sets.num_classes), test.labels)
        for name, test in sets.tests.items()
    }
    figures = {figure_name(name, "top1"): top_k_accuracy(*found, 1) for name, found in scores.items()}
    return Measured(
        figures=figures,
        chance=dict.fromkeys(figures, 100 / sets.num_classes),
        settings={
            "num_neighbours": NUM_NEIGHBOURS,
            "temperature": TEMPERATURE,
            "similarity": "cosine of features averaged over clips and crops",
        },
        scores=scores,
    )


def _retrieval(sets: FeatureSets) -> Measured:
    train = sets.train
    figures: dict[str, float] = {}
    chance: dict[str, float] = {}
    for name, test in sets.tests.items():
        found = retrieve(train.per_video, train.labels, test.per_video, test.labels)
        figures |= {figure_name(name, f"R@{k}"): value for k, value in found.recall.items()}
        chance |= {figure_name(name, f"R@{k}"): value for k, value in found.chance.items()}
    similarity = "cosine of features averaged over clips and crops, after subtracting each list's own mean"
    return Measured(figures=figures, chance=chance, settings={"ranks": list(RANKS), "similarity": similarity})


def _same_video(train: Features, clips: ClipSettings) -> Measured:
    # Other crops of a clip show the same frames, so only the middle one takes part.
    pooled = train.pooled[:, clips.num_crops // 2 :: clips.num_crops]
    num_videos, num_clips = pooled.shape[:2]
    return Measured(
        figures={"train": same_video_share(pooled)},
        chance={"train": 100 * (num_clips - 1) / (num_videos * num_clips - 1)},
        settings={"similarity": "cosine between clips after subtracting their mean, centre crops"},
    )
