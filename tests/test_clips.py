from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from fima.data.clips import (
    early_positions,
    evenly_spread_starts,
    full_positions,
    late_positions,
    window_indices,
    window_starts,
)


def test_the_three_views_of_a_window() -> None:
    window = list(range(100, 108))
    assert window[full_positions(4)] == [100, 102, 104, 106]
    assert window[early_positions(4)] == [100, 101, 102, 103]
    assert window[late_positions(4)] == [104, 105, 106, 107]


def test_starts_differ_and_every_pair_occurs() -> None:
    rng = np.random.default_rng(0)
    pairs = Counter(window_starts(12, 10, rng) for _ in range(600))
    assert set(pairs) == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}
    assert min(pairs.values()) > 60


@pytest.mark.parametrize("num_frames", [1, 9, 10])
def test_a_single_possible_start_serves_both_clips(num_frames: int) -> None:
    assert window_starts(num_frames, 10, np.random.default_rng(0)) == (0, 0)


def test_short_videos_are_looped() -> None:
    assert window_indices(0, 7, 3) == [0, 1, 2, 0, 1, 2, 0]
    assert window_indices(0, 4, 1) == [0, 0, 0, 0]
    assert window_indices(5, 3, 8) == [5, 6, 7]


def test_evenly_spread_starts() -> None:
    assert evenly_spread_starts(42, 32, 3) == [0, 5, 10]
    assert evenly_spread_starts(42, 32, 2) == [0, 10]
    assert evenly_spread_starts(42, 32, 1) == [5]
    assert evenly_spread_starts(32, 32, 4) == [0, 0, 0, 0]
    assert evenly_spread_starts(5, 32, 2) == [0, 0]
    starts = evenly_spread_starts(300, 32, 10)
    assert starts[0] == 0
    assert starts[-1] == 268
    assert all(29 <= after - before <= 30 for before, after in pairwise(starts))


def test_the_same_window_serves_both_clips() -> None:
    generator = np.random.default_rng(0)
    starts = {window_starts(20, 8, generator, sampling="same") for _ in range(200)}
    assert starts == {(start, start) for start in range(13)}


def test_near_windows_follow_each_other_or_end_the_video() -> None:
    generator = np.random.default_rng(0)
    starts = {window_starts(20, 8, generator, sampling="near") for _ in range(300)}
    assert starts == {(start, min(start + 8, 12)) for start in range(13)}


def test_starts_are_multiples_of_the_step() -> None:
    generator = np.random.default_rng(0)
    pairs = [window_starts(20, 8, generator, step_frames=5) for _ in range(100)]
    assert {start for pair in pairs for start in pair} == {0, 5, 10}
    assert all(first != second for first, second in pairs)
    assert window_starts(12, 8, generator, step_frames=5) == (0, 0)
