"""Several encoders on the same test videos: how far their figures lie apart, and how sure that is."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fima.evaluate.intervals import Tested, drawn_means, interval

MAIN_FIGURES = ("top1", "R@1", "as_is")
"""Figures whose differences are put into words."""


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
    """95 %, by bootstrap over groups of videos, both encoders on the same draws; None with fewer than two groups."""
    num_videos: int
    """Test videos that both could be shown."""

    @property
    def is_main(self) -> bool:
        """Whether it is one of a protocol's main figure."""
        protocol, _, figure = self.figure.partition("/")
        return figure in MAIN_FIGURES and "@" not in protocol

    def __str__(self) -> str:
        both = f"{self.first} and {self.second}"
        if self.interval is None:
            return f"{self.figure}: {both} differ by {self.points:+.1f} points; no interval, with one group"
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
    """Return the differences, for each pair of encoders, of all figures that are percentages of the test videos.

    `tested` is what the protocols made of the test videos, by encoder; the seed is that of the bootstrap.
    """
    found = []
    for first, second in itertools.combinations(tested, 2):
        one, other = tested[first], tested[second]
        places = {video: place for place, video in enumerate(other.videos)}
        pairs = [(place, places[video]) for place, video in enumerate(one.videos) if video in places]
        rows, other_rows = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        groups = [one.groups[row] for row in rows]
        other_hits = other.hits()
        for figure, hits in one.hits().items():
            if figure not in other_hits or not pairs:
                continue
            apart = 100 * (hits[rows] - other_hits[figure][other_rows])
            draws = drawn_means(apart, groups, seed=seed)
            found.append(
                Difference(
                    figure=figure,
                    first=first,
                    second=second,
                    points=float(apart.mean()),
                    interval=interval(draws) if len(set(groups)) > 1 else None,
                    num_videos=len(pairs),
                )
            )
    return found
