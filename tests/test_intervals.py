"""Intervals by bootstrap over groups."""

import numpy as np
import pytest

from fima.evaluate.intervals import drawn_means, interval


@pytest.mark.parametrize(("num_groups", "percentile"), [(6, 0.2434), (10, 0.8549), (1000, 2.4804)])
def test_intervals_are_wider_the_fewer_groups_there_are(num_groups: int, percentile: float) -> None:
    """The percentiles of Hesterberg's expanded interval: normal tail at sqrt(n / (n - 1)) times Student's quantile."""
    low, high = interval(np.linspace(0, 100, 100_001), num_groups)
    assert (low, high) == pytest.approx((percentile, 100 - percentile), abs=1e-3)


def test_intervals_of_few_groups_keep_their_level() -> None:
    """Groups without a true difference: about 5 % of the intervals of their mean miss 0, and not 14 %."""
    generator = np.random.default_rng(0)
    groups = [str(number) for number in np.repeat(range(6), 5)]
    missed = 0
    for seed in range(400):
        values = np.repeat(generator.normal(size=6), 5)
        low, high = interval(drawn_means(values, groups, seed=seed), 6)
        missed += not low <= 0 <= high
    assert missed / 400 < 0.09


def test_intervals_draw_groups_and_not_videos() -> None:
    """Five groups that are all right or all wrong are five facts, however many videos each has."""
    values = np.repeat([1.0, 1.0, 1.0, 0.0, 0.0], 40)
    groups = [str(number) for number in np.repeat(range(5), 40)]
    draws = drawn_means(values, groups)
    assert draws.std() == pytest.approx(np.sqrt(0.6 * 0.4 / 5), rel=0.05)
    alone = interval(drawn_means(values, [str(number) for number in range(200)]), 200)
    assert alone[1] - alone[0] < 0.16
    # Groups of different sizes: the mean over videos, not over groups.
    generator = np.random.default_rng(0)
    uneven, sizes = generator.random(9), [1, 2, 6]
    found = drawn_means(uneven, [str(number) for number in np.repeat(range(3), sizes)], seed=4)
    parts = np.split(uneven, [1, 3])
    drawn = np.random.default_rng(4).multinomial(3, np.full(3, 1 / 3), size=2000)
    expected = [
        np.concatenate([np.tile(part, times) for part, times in zip(parts, row, strict=True)]).mean() for row in drawn
    ]
    np.testing.assert_allclose(found, expected)
