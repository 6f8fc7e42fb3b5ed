"""Features in two dimensions, computed where a crash of native code costs the map and not the page."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from fima.data.workers.killable_pool import Failed, run_isolated

LARGEST_PERPLEXITY = 30.0
FEWEST_VIDEOS = 3
SMALLEST_SPREAD = 1e-6
"""Of features that differ by less than this share of their size, a map would show rounding errors."""
TIMEOUT_SECONDS = 900.0

Projections = dict[str, NDArray[np.floating[Any]]]


def projections(features: NDArray[np.float32], directions: NDArray[np.float32]) -> tuple[Projections, str]:
    """Return the `directions` of features, both (V, C), in two dimensions, (V, 2) by method, or none and the reason."""
    if len(features) < FEWEST_VIDEOS:
        return {}, f"fewer than {FEWEST_VIDEOS} videos"
    if not (np.isfinite(features).all() and np.isfinite(directions).all()):
        return {}, "features that are no finite numbers"
    if np.ptp(features, axis=0).max() <= SMALLEST_SPREAD * np.abs(features).max():
        return {}, "all features are equal: constant videos, or a collapsed encoder"
    # t-SNE builds trees in native code, which has crashed on rows that are equal.
    outcomes = run_isolated(project, [directions], workers=1, timeout_seconds=TIMEOUT_SECONDS)
    _, outcome = next(outcomes)
    outcomes.close()
    return ({}, outcome.reason) if isinstance(outcome, Failed) else (outcome, "")


def project(rows: NDArray[np.float32]) -> Projections:
    """Project rows (V, C), V of at least 3, by t-SNE and by PCA."""
    perplexity = min(LARGEST_PERPLEXITY, (len(rows) - 1) / 3)
    nearby = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)
    return {"t-SNE": nearby, "PCA": PCA(2, random_state=0).fit_transform(rows)}
