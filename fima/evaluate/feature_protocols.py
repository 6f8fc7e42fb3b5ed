"""The protocols that look at features of a frozen encoder: linear probe, neighbours, retrieval, clusters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
from torch import Tensor

from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.data.subsets import low_shot
from fima.evaluate.clustering import NUM_SEEDS, NUM_STARTS, clustering
from fima.evaluate.features import Features
from fima.evaluate.knn import NUM_NEIGHBOURS, TEMPERATURE, knn_scores
from fima.evaluate.linear import INVERSE_REGULARISATIONS, NUM_FOLDS, fit_linear_probe, inner_folds
from fima.evaluate.metrics import percent, top_k_accuracy, top_k_hits
from fima.evaluate.protocols import PROTOCOL_VERSIONS, EvaluationConfig
from fima.evaluate.retrieval import RANKS, retrieve, same_video_share

SELECTION = f"{NUM_FOLDS}-fold cross-validation on the training videos"


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
    hits: dict[str, Tensor] = field(default_factory=dict)
    """By figure of the list `test`: whether each of its videos is a hit, bool (V,); the figure is their percentage."""


@dataclass(frozen=True, kw_only=True)
class FeatureSets:
    """Features of one split's lists."""

    train: Features
    """Of the training list."""
    tests: Mapping[str, Features]
    """Of the test lists, by name."""
    videos: VideoList
    """The training list itself."""
    groups: Mapping[Path, str] = field(default_factory=dict)
    """Which videos belong together; empty where that is not known."""
    features: str = "avg"
    """Which columns are looked at, as `--features` takes it."""

    @property
    def num_classes(self) -> int:
        """Classes of the data, with or without videos."""
        return len(self.videos.classes)

    @property
    def train_rows(self) -> Tensor:
        """The training videos, (V, C)."""
        return self.train.columns(self.features).mean(dim=1)

    def test_rows(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The test lists: name, rows (U, C), labels (U,)."""
        for name, test in self.tests.items():
            yield name, test.columns(self.features).mean(dim=1), test.labels

    @property
    def train_groups(self) -> list[str] | None:
        """The group of each training video, where it is known."""
        return [self.groups[Path(path)] for path in self.train.paths] if self.groups else None


def measure(name: str, sets: FeatureSets, clips: ClipSettings, config: EvaluationConfig) -> dict[str, Measured]:
    """Run one protocol.

    Of several features, each is measured as `<protocol>@<features>`; the protocol itself is the one that does best on
    training videos held out of the fit, so that the test videos decide nothing.

    Args:
        name: one of `ALL_FEATURE_PROTOCOLS`.
        sets: the features.
        clips: how clips were cut out of the videos, for the record.
        config: settings.

    Returns:
        By protocol: `linear` comes with `linear_low_shot` where that was asked for.

    Raises:
        DataError: too few training videos or classes for the linear probe, or too few classes for clustering.
    """
    found: dict[str, Measured] = {}
    if name == "same_video":
        found[name] = _same_video(sets.train, clips)
    else:
        views = {features: replace(sets, features=features) for features in config.features}
        each = {features: _MEASURES[name](view, config) for features, view in views.items()}
        chosen, held_out = config.features[0], dict[str, float]()
        if len(views) > 1:
            held_out = {features: _held_out(name, view, config, each[features]) for features, view in views.items()}
            chosen = max(held_out, key=lambda features: held_out[features])
            found = {f"{name}@{features}": measured for features, measured in each.items()}
            each[chosen].notes.update(features=chosen, held_out_accuracies_by_features=held_out)
        found = {name: each[chosen], **found}
        if name == "linear" and config.low_shot is not None:
            found["linear_low_shot"] = _low_shot(views[chosen], config, config.low_shot)
    shared = {"clips": asdict(clips)}
    return {
        key: replace(each, settings={"version": PROTOCOL_VERSIONS[key.partition("@")[0]], **shared, **each.settings})
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


def _held_out(name: str, sets: FeatureSets, config: EvaluationConfig, measured: Measured) -> float:
    """Top-1, for retrieval R@1, in percent, on training videos that were held out, a fifth of them at a time.

    Clustering fits nothing to labels: it gives its mean NMI on all training videos.
    """
    if name == "linear":
        return float(max(measured.notes["held_out_accuracies"].values()))
    rows, labels = sets.train_rows, sets.train.labels
    if name == "clustering":
        return mean(each["NMI"] for each in clustering(rows, labels, config.seed)[0])
    folds = torch.from_numpy(inner_folds(labels.numpy(), sets.train_groups, config.seed))
    hits = []
    for fold in sorted(set(folds.tolist())):
        seen, unseen = folds != fold, folds == fold
        if name == "knn":
            scores = knn_scores(rows[seen], labels[seen], rows[unseen], num_classes=sets.num_classes)
            hits.append(top_k_hits(scores, labels[unseen], 1))
        else:
            hits.append(retrieve(rows[seen], labels[seen], rows[unseen], labels[unseen]).hits[1])
    return percent(torch.cat(hits))


def _linear(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    groups = sets.train_groups
    probe = fit_linear_probe(
        sets.train_rows,
        sets.train.labels,
        num_classes=sets.num_classes,
        seed=config.seed,
        l2_normalise=config.l2_normalise,
        groups=groups,
    )
    scores = {name: (probe.scores(rows), labels) for name, rows, labels in sets.test_rows()}
    figures, chance = class_figures(scores, sets.num_classes)
    return Measured(
        figures=figures,
        chance=chance,
        settings={
            "features": _described(sets),
            "classifier": "logistic regression (L2, L-BFGS) on features averaged over clips and crops, standardised",
            "l2_normalise": config.l2_normalise,
            "dropout": 0,
            "augmentation": "none",
            "candidates": list(INVERSE_REGULARISATIONS),
            "selection": SELECTION + (", whole groups" if groups else ""),
            "seed": config.seed,
        },
        notes={
            "inverse_regularisation": probe.inverse_regularisation,
            "held_out_accuracies": probe.held_out_accuracies,
        },
        scores=scores,
        hits={f"top{k}": top_k_hits(*scores["test"], k) for k in (1, 5) if "test" in scores},
    )


def _low_shot(sets: FeatureSets, config: EvaluationConfig, count: int) -> Measured:
    """The linear probe on a few training videos; the mean over several draws of them."""
    row_of = {path: row for row, path in enumerate(sets.train.paths)}
    decodable = replace(sets.videos, videos=[video for video in sets.videos.videos if str(video.path) in row_of])
    draws = []
    for number in range(config.low_shot_draws):
        part = low_shot(decodable, count, config.seed + number)
        rows = [row_of[str(video.path)] for video in part.videos]
        draws.append(_linear(replace(sets, train=sets.train.rows(rows)), config))
    by_figure = _by_name([draw.figures for draw in draws])
    means, spread = _mean_and_sd(by_figure)
    return Measured(
        figures=means,
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


def _by_name(draws: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [draw[name] for draw in draws] for name in draws[0]}


def _mean_and_sd(draws: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """By figure, the mean over its draws, and their sample standard deviation where there are two or more."""
    spread = {name: stdev(values) for name, values in draws.items() if len(values) > 1}
    return {name: mean(values) for name, values in draws.items()}, spread


def _knn(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    train, labels = sets.train_rows, sets.train.labels
    scores = {
        name: (knn_scores(train, labels, rows, num_classes=sets.num_classes), own_labels)
        for name, rows, own_labels in sets.test_rows()
    }
    figures = {figure_name(name, "top1"): top_k_accuracy(*found, 1) for name, found in scores.items()}
    return Measured(
        figures=figures,
        chance=dict.fromkeys(figures, 100 / sets.num_classes),
        settings={
            "features": _described(sets),
            "num_neighbours": NUM_NEIGHBOURS,
            "temperature": TEMPERATURE,
            "similarity": "cosine of features averaged over clips and crops",
        },
        scores=scores,
        hits={"top1": top_k_hits(*scores["test"], 1)} if "test" in scores else {},
    )


def _retrieval(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    train, labels = sets.train_rows, sets.train.labels
    figures: dict[str, float] = {}
    chance: dict[str, float] = {}
    hits: dict[str, Tensor] = {}
    for name, rows, own_labels in sets.test_rows():
        found = retrieve(train, labels, rows, own_labels)
        figures |= {figure_name(name, f"R@{k}"): value for k, value in found.recall.items()}
        chance |= {figure_name(name, f"R@{k}"): value for k, value in found.chance.items()}
        if name == "test":
            hits = {f"R@{k}": value for k, value in found.hits.items()}
    similarity = "cosine of features averaged over clips and crops, after subtracting each list's own mean"
    settings = {"features": _described(sets), "ranks": list(RANKS), "similarity": similarity}
    return Measured(figures=figures, chance=chance, settings=settings, hits=hits)


def _clustering(sets: FeatureSets, config: EvaluationConfig) -> Measured:
    seeds: list[dict[str, float]] = [{} for _ in range(NUM_SEEDS)]
    chance: dict[str, float] = {}
    for name, rows, labels in sets.test_rows():
        found, guessed = clustering(rows, labels, config.seed)
        chance |= {figure_name(name, key): value for key, value in guessed.items()}
        for figures, agreed in zip(seeds, found, strict=True):
            figures |= {figure_name(name, key): value for key, value in agreed.items()}
    by_seed = _by_name(seeds)
    means, spread = _mean_and_sd(by_seed)
    return Measured(
        figures=means,
        chance=chance,
        settings={
            "features": _described(sets),
            "clusters": "k-means on L2-normalised features averaged over clips and crops, as many as classes",
            "num_starts": NUM_STARTS,
            "num_seeds": NUM_SEEDS,
            "seed": config.seed,
        },
        notes={"figures": by_seed},
        sd=spread,
    )


def _same_video(train: Features, clips: ClipSettings) -> Measured:
    # Other crops of a clip show the same frames, so only the middle one takes part.
    pooled = train.pooled[:, clips.num_crops // 2 :: clips.num_crops]
    num_videos, num_clips = pooled.shape[:2]
    return Measured(
        figures={"train": same_video_share(pooled)},
        chance={"train": 100 * (num_clips - 1) / (num_videos * num_clips - 1)},
        settings={
            "features": f"of the frozen encoder in eval mode: {', '.join(train.parts)}",
            "similarity": "cosine between clips after subtracting their mean, centre crops",
        },
    )


def _described(sets: FeatureSets) -> str:
    return f"of the frozen encoder in eval mode, pooled over time and space: {sets.features}"


_MEASURES: dict[str, Callable[[FeatureSets, EvaluationConfig], Measured]] = {
    "linear": _linear,
    "knn": _knn,
    "retrieval": _retrieval,
    "clustering": _clustering,
}
