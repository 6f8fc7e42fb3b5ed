"""Clustering of frozen features: k-means, and how well its clusters agree with the classes."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor
from torch.nn import functional

from fima.errors import DataError

NUM_SEEDS = 5
NUM_STARTS = 10
"""Starts of k-means by seed; the one with the smallest distances is kept."""
NUM_SHUFFLES = 20
"""Random orders of the clusters that say what guessing gets."""


def cluster(rows: Tensor, labels: Tensor, seed: int) -> NDArray[np.int64]:
    """Return the k-means cluster of each row, int (V,), of L2-normalised features (V, C).

    There are as many clusters as different labels (V,), which say no more than that. The seed is of the k-means++
    starts. Raises DataError for fewer than two classes, or not more videos than classes.
    """
    num_clusters = len(np.unique(labels.numpy()))
    if num_clusters < 2:
        raise DataError("the protocol clustering needs videos of two classes in each test list; leave it out")
    if len(labels) <= num_clusters:
        raise DataError(
            f"a test list has {len(labels)} videos of {num_clusters} classes: the protocol clustering would make each "
            "video a cluster of its own; make fewer folds, or leave it out"
        )
    # Fewer different features than clusters: the others stay empty, which the agreement shows.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        means = KMeans(num_clusters, n_init=NUM_STARTS, random_state=seed)
        clusters: NDArray[np.int64] = means.fit_predict(functional.normalize(rows.double(), dim=1).numpy())
    return clusters


def agreement(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> dict[str, float]:
    """Return how well cluster numbers (V,) agree with class numbers (V,), in percent.

    `NMI` is the mutual information over the arithmetic mean of the entropies; `ARI` the adjusted Rand index, 0 for
    chance; `accuracy` the videos whose cluster is their class's, under the best one-to-one assignment.
    """
    counts = contingency_matrix(labels, clusters)
    assigned = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return {
        "NMI": 100 * float(normalized_mutual_info_score(labels, clusters)),
        "ARI": 100 * float(adjusted_rand_score(labels, clusters)),
        "accuracy": 100 * float(assigned) / len(labels),
    }


def clustering(rows: Tensor, labels: Tensor, seed: int) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Cluster features (V, C) of classes (V,) with `NUM_SEEDS` seeds from `seed` on; raises what `cluster` does.

    Returns the agreement by seed, and what guessing gets: the mean agreement of shuffled clusters of the same sizes.
    """
    classes = labels.numpy()
    found = [cluster(rows, labels, seed + number) for number in range(NUM_SEEDS)]
    generator = np.random.default_rng(seed)
    guessed = [agreement(classes, generator.permutation(found[0])) for _ in range(NUM_SHUFFLES)]
    chance = {name: float(np.mean([each[name] for each in guessed])) for name in guessed[0]}
    return [agreement(classes, clusters) for clusters in found], chance
