"""The protocol `clustering`: k-means against scikit-learn, its agreement with classes against brute force."""

import itertools
from collections import Counter
from math import log

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from fima.errors import DataError
from fima.evaluate.clustering import NUM_SEEDS, agreement, cluster, clustering
from tests.evaluation_data import gaussians


def entropy(counts: Counter[object]) -> float:
    return -sum(n / counts.total() * log(n / counts.total()) for n in counts.values())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_clusters", [3, 4])
def test_agreement_is_what_the_formulas_say(seed: int, num_clusters: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=30)
    clusters = np.where(generator.random(30) < 0.5, labels, generator.integers(4, size=30)) % num_clusters
    found = agreement(labels, clusters)
    # Accuracy: every way to name the clusters after classes.
    named = [np.array(names)[clusters] for names in itertools.permutations(range(4))]
    assert found["accuracy"] == pytest.approx(100 * max((names == labels).mean() for names in named), abs=1e-6)
    # ARI: over all pairs of videos.
    pairs = [(labels[i] == labels[j], clusters[i] == clusters[j]) for i, j in itertools.combinations(range(30), 2)]
    both, of_labels, of_clusters = (sum(map(f, pairs)) for f in (all, lambda p: p[0], lambda p: p[1]))
    guessed = of_labels * of_clusters / len(pairs)
    expected = (both - guessed) / ((of_labels + of_clusters) / 2 - guessed)
    assert found["ARI"] == pytest.approx(100 * expected, abs=1e-6)
    # NMI: entropies.
    parts = [entropy(Counter(each)) for each in (labels.tolist(), clusters.tolist())]
    joint = entropy(Counter(zip(labels.tolist(), clusters.tolist(), strict=True)))
    assert found["NMI"] == pytest.approx(100 * (sum(parts) - joint) / (sum(parts) / 2), abs=1e-6)


def test_names_of_clusters_do_not_matter() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert agreement(labels, (labels + 1) % 3) == pytest.approx({"NMI": 100, "ARI": 100, "accuracy": 100})


def test_clusters_are_k_means_on_directions() -> None:
    rows, labels = gaussians(12, 4, seed=0, spread=2.0)
    directions = (rows.double() / rows.double().norm(dim=1, keepdim=True)).numpy()
    expected = KMeans(4, n_init=10, random_state=7).fit_predict(directions)
    assert agreement(expected, cluster(rows, labels, seed=7))["ARI"] == pytest.approx(100, abs=1e-6)
    lengths = torch.rand(len(rows), 1) + 0.1
    assert agreement(expected, cluster(rows * lengths, labels, seed=7))["ARI"] == pytest.approx(100, abs=1e-6)


def test_seeds_follow_one_another_and_chance_is_low() -> None:
    rows, labels = gaussians(12, 4, seed=0, spread=0.1)
    found, chance = clustering(rows, labels, seed=3)
    assert found == [agreement(labels.numpy(), cluster(rows, labels, 3 + number)) for number in range(NUM_SEEDS)]
    assert found[0]["accuracy"] == 100
    assert abs(chance["ARI"]) < 10
    assert 25 < chance["accuracy"] < 60


def test_equal_features_are_one_cluster_and_one_class_is_refused() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert agreement(labels.numpy(), cluster(torch.ones(4, 3), labels, seed=0))["accuracy"] == 75
    with pytest.raises(DataError, match="two classes"):
        cluster(torch.randn(4, 3), torch.zeros(4, dtype=torch.long), seed=0)


def test_as_many_clusters_as_videos_say_nothing_and_are_refused() -> None:
    with pytest.raises(DataError, match=r"4 videos of 4 classes.*fewer folds"):
        cluster(torch.randn(4, 3), torch.arange(4), seed=0)
    assert cluster(torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 3]), seed=0).shape == (5,)
