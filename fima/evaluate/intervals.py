"""How sure a percentage of videos is: bootstrap over groups of videos that belong together."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from fima.evaluate.measured import Measured
from fima.evaluate.protocols import SplitName

DRAWS = 2000
LEVEL = 95
"""Percent of the intervals that hold the true figure."""
FEWEST_GROUPS = 6
"""Of fewer groups there are too few different draws: intervals miss more often than their level says."""
MAIN_FIGURES = ("top1", "R@1", "as_is")
"""Figures whose differences are put into words."""


class Tested:
    """The test videos of all splits with what each protocol made of them."""

    def __init__(self) -> None:
        self.videos: list[str] = []
        """The split and the file of each."""
        self.groups: list[str] = []
        """The group of each; its file where none is known."""
        self.splits: list[SplitName] = []
        """The split of each."""
        self._hits: dict[str, list[NDArray[np.float64]]] = {}

    @property
    def num_groups(self) -> int | None:
        """Groups of the test videos; None where none is known."""
        return len(set(self.groups)) or None

    def add(
        self, split: SplitName, measured: Mapping[str, Measured], paths: Sequence[str], groups: Mapping[Path, str]
    ) -> None:
        """Count the test videos of a split that the protocols looked at, given their files and the groups of files."""
        self.videos += [f"{split} {path}" for path in paths]
        self.groups += [groups.get(Path(path), path) for path in paths]
        self.splits += [split] * len(paths)
        for name, found in measured.items():
            for figure, hits in found.hits.items():
                self._hits.setdefault(f"{name}/{figure}", []).append(hits.double().numpy())

    def hits(self) -> dict[str, NDArray[np.float64]]:
        """By figure, 1 for a video that is a hit and 0 for another, (V,); only figures that all splits have."""
        joined = {name: np.concatenate(parts) for name, parts in self._hits.items()}
        return {name: values for name, values in joined.items() if len(values) == len(self.groups)}

    def intervals(self, seed: int) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of the figures, in percent; none of fewer than six groups."""
        num_groups = self.num_groups or 0
        if num_groups < FEWEST_GROUPS:
            return {}
        weights = split_weights(self.splits)
        return {
            name: interval(100 * drawn_means(values, self.groups, weights=weights, seed=seed), num_groups)
            for name, values in self.hits().items()
        }


def split_weights(splits: Sequence[SplitName]) -> NDArray[np.float64]:
    """Return how much each video counts given its split, (V,), 1 in the mean.

    Figures are means over official splits, whatever their sizes; in folds, which have names, every video counts once.
    """
    names, codes, counts = np.unique([str(split) for split in splits], return_inverse=True, return_counts=True)
    if any(isinstance(split, str) for split in splits):
        return np.ones(len(splits))
    return np.asarray(len(splits) / len(names) / counts[codes])


def drawn_means(
    values: NDArray[np.float64],
    groups: Sequence[str],
    *,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the mean over all videos in each of 2,000 draws of as many groups, with replacement: (2000,).

    Values (V,) are one a video, such as 1 for one that was recognised and 0 for another; so are the weights, equal by
    default. A seed draws the same groups for other values of the same videos.
    """
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    weights = np.ones(len(values)) if weights is None else weights
    sums, counts = (np.bincount(codes, each, minlength=len(names)) for each in (weights * values, weights))
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    return np.asarray(draws @ sums / (draws @ counts))


def interval(draws: NDArray[np.float64], num_groups: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of draws of so many groups.

    Draws of n groups vary by (n - 1) / n of the variance, and with the tails of a normal distribution instead of
    Student's: the percentiles are further out by as much (the expanded percentile interval; Hesterberg, What teachers
    should know about the bootstrap, The American Statistician 69, 2015).
    """
    student = stdtrit(num_groups - 1, 0.5 - LEVEL / 200)
    tail = 100 * ndtr(np.sqrt(num_groups / (num_groups - 1)) * student)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better one encoder is than another in one figure."""

    figure: str
    """`<protocol>/<figure>`."""
    first: str
    second: str
    points: float
    """The first's figure minus the second's, in percentage points, on the videos that both could be shown."""
    interval: tuple[float, float] | None
    """95 %, by bootstrap over groups of videos, both encoders on the same draws; None with fewer than six groups."""
    num_videos: int

    @property
    def is_main(self) -> bool:
        """Whether it is one of a protocol's main figure."""
        protocol, _, figure = self.figure.partition("/")
        return figure in MAIN_FIGURES and "@" not in protocol

    def __str__(self) -> str:
        both = f"{self.first} and {self.second}"
        if self.interval is None:
            few = f"no interval, with fewer than {FEWEST_GROUPS} groups"
            return f"{self.figure}: {both} differ by {self.points:+.1f} points; {few}"
        low, high = self.interval
        if low <= 0 <= high:
            shown = f"{self.points:+.1f} points (95 %: {low:+.1f} to {high:+.1f})"
            return f"{self.figure}: no difference between {both} is shown: {shown}"
        better, other = (self.first, self.second) if low > 0 else (self.second, self.first)
        ends = sorted((abs(low), abs(high)))
        return (
            f"{self.figure}: {better} is better than {other} by {abs(self.points):.1f} points "
            f"(95 %: {ends[0]:.1f} to {ends[1]:.1f})"
        )


def differences(tested: Mapping[str, Tested], seed: int) -> list[Difference]:
    """Return the differences, for each pair of encoders, of all figures that are percentages of the test videos."""
    found = []
    for first, second in itertools.combinations(tested, 2):
        one, other = tested[first], tested[second]
        places = {video: place for place, video in enumerate(other.videos)}
        pairs = [(place, places[video]) for place, video in enumerate(one.videos) if video in places]
        if not pairs:
            continue
        rows, other_rows = np.array(pairs, dtype=np.int64).T
        groups = [one.groups[row] for row in rows]
        weights, num_groups = split_weights([one.splits[row] for row in rows]), len(set(groups))
        other_hits = other.hits()
        for figure, hits in one.hits().items():
            if figure not in other_hits:
                continue
            apart = 100 * (hits[rows] - other_hits[figure][other_rows])
            draws = drawn_means(apart, groups, weights=weights, seed=seed)
            found.append(
                Difference(
                    figure=figure,
                    first=first,
                    second=second,
                    points=float(np.average(apart, weights=weights)),
                    interval=interval(draws, num_groups) if num_groups >= FEWEST_GROUPS else None,
                    num_videos=len(pairs),
                )
            )
    return found
