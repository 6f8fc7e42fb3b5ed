"""Maps of the features: none of what has no directions, and a crash of native code costs the map alone."""

import os
import signal

import numpy as np
import pytest

from fima.visual.report import feature_maps
from fima.visual.report.feature_maps import projections

RANDOM = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def crash(_: object) -> None:
    """What native code does on rows that it cannot take."""
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (RANDOM[:2], "fewer than 3 videos"),
        (np.ones((5, 4), np.float32), "all features are equal"),
        (np.zeros((5, 4), np.float32), "all features are equal"),
        (1000 + 1e-4 * RANDOM, "all features are equal"),
        (np.where(RANDOM > 2, np.nan, np.float32("inf")), "no finite numbers"),
    ],
)
def test_degenerate_features_have_no_map(features: np.ndarray, reason: str) -> None:
    found, said = projections(features.astype(np.float32), RANDOM[: len(features)])
    assert found == {}
    assert reason in said


def test_a_map_has_a_point_for_each_video() -> None:
    # Only one row differs: the others are equal, as videos that are copies of each other.
    rows = np.zeros((8, 4), np.float32)
    rows[0] = 1
    found, said = projections(rows, rows)
    assert said == ""
    assert {name: points.shape for name, points in found.items()} == {"t-SNE": (8, 2), "PCA": (8, 2)}
    first, *others = found["PCA"]
    assert np.allclose(others, others[0], atol=1e-5)
    assert abs(np.linalg.norm(first - others[0]) - 2) < 1e-5


def test_a_crash_costs_the_map_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_maps, "project", crash)
    found, said = projections(RANDOM, RANDOM)
    assert found == {}
    assert "SIGSEGV" in said
