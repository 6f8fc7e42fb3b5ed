"""What the protocols on features look at, and what one of them found."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
from torch import Tensor

from fima.checkpoints.checkpoint import versions
from fima.data.datasets import VideoList
from fima.evaluate.features import Features
from fima.evaluate.metrics import most_frequent, percent, top_k_hits
from fima.evaluate.protocols import EvaluationResult


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
    """Features of one split's lists, those of the test lists by name, and the training list itself."""

    train: Features
    tests: Mapping[str, Features]
    videos: VideoList
    groups: Mapping[Path, str] = field(default_factory=dict)
    """Which videos belong together; empty where that is not known."""
    is_fold: bool = False
    """Whether the lists are parts of one list, as in a cross-validation."""
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
    def chance(self) -> dict[str, float]:
        """What guessing gets of the accuracies, by `guessed`."""
        return guessed(self.train.labels, {name: test.labels for name, test in self.tests.items()})

    @property
    def train_groups(self) -> list[str] | None:
        """The group of each training video, where it is known."""
        return [self.groups[Path(path)] for path in self.train.paths] if self.groups else None


def classified(
    scores: Mapping[str, tuple[Tensor, Tensor]],
    train_labels: Tensor,
    settings: dict[str, Any],
    notes: dict[str, Any] | None = None,
) -> Measured:
    """Return top-1 and top-5 of a classifier on each test list, in percent, and what guessing gets.

    Scores are, by test list, those of the classes (V, classes) with the labels (V,); training labels are (U,). Notes
    say what was chosen.
    """
    hits = {test: {f"top{k}": top_k_hits(*found, k) for k in (1, 5)} for test, found in scores.items()}
    figures = {figure_name(test, name): percent(own) for test, found in hits.items() for name, own in found.items()}
    return Measured(
        figures=figures,
        chance=guessed(train_labels, {test: labels for test, (_, labels) in scores.items()}),
        settings=settings,
        notes=notes or {},
        scores=dict(scores),
        hits=hits["test"],
    )


def guessed(train_labels: Tensor, tests: Mapping[str, Tensor]) -> dict[str, float]:
    """Return top-1 and top-5 of always naming the most frequent training classes, by figure, of lists of labels."""
    every = ((test, labels, k) for test, labels in tests.items() for k in (1, 5))
    return {figure_name(test, f"top{k}"): most_frequent(train_labels, labels, k) for test, labels, k in every}


def figure_name(test: str, figure: str) -> str:
    """Return a figure's name: the list `test` is not named."""
    return figure if test == "test" else f"{test}/{figure}"


def as_result(
    measured: Mapping[str, Measured], *, encoder: dict[str, Any], data: dict[str, dict[str, Any]]
) -> EvaluationResult:
    """Return what the protocols found, by name, as a result that says this of the encoder and of the lists."""

    def by_figure(attribute: Literal["figures", "chance", "sd"]) -> dict[str, float]:
        every = ((name, getattr(found, attribute)) for name, found in measured.items())
        return {f"{name}/{key}": value for name, values in every for key, value in values.items()}

    return EvaluationResult(
        figures=by_figure("figures"),
        chance=by_figure("chance"),
        sd=by_figure("sd"),
        encoder=encoder,
        protocols={name: found.settings for name, found in measured.items()},
        data=data,
        versions=versions(),
        notes={name: found.notes for name, found in measured.items() if found.notes},
    )


def averaged(
    draws: Sequence[Mapping[str, float]],
    *,
    chance: dict[str, float],
    settings: dict[str, Any],
    notes: dict[str, Any] | None = None,
    hits: Sequence[Mapping[str, Tensor]] = ({},),
) -> Measured:
    """Return the mean of each figure over draws, with their sample standard deviation where there are two.

    Of the hits of each draw, by figure, the share of the draws that recognise a video is kept.
    """
    figures = {name: [draw[name] for draw in draws] for name in draws[0]}
    return Measured(
        figures={name: mean(values) for name, values in figures.items()},
        chance=chance,
        settings=settings,
        notes={"figures": figures, **(notes or {})},
        sd={name: stdev(values) for name, values in figures.items() if len(values) > 1},
        hits={name: torch.stack([draw[name].double() for draw in hits]).mean(dim=0) for name in hits[0]},
    )


def described(sets: FeatureSets) -> str:
    """Return what the result says of the features that a protocol looked at."""
    return f"of the frozen encoder in eval mode, pooled over time and space: {sets.features}"
