"""Figures of merit; all in percent."""

from collections.abc import Mapping, Sequence

import torch
from scipy.stats import hypergeom
from torch import Tensor


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Return how often the true class is among the `k` highest scores; see `top_k_hits`."""
    return percent(top_k_hits(scores, labels, k))


def top_k_hits(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return whether the true class (V,) is among the `k` highest scores of (V, classes), bool (V,).

    A class that no training video has, whose scores are -inf, is none of them.
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    return ((best.indices == labels[:, None]) & (best.values > -torch.inf)).any(dim=1)


def recall_hits(
    similarity: Tensor, query_labels: Tensor, gallery_labels: Tensor, ks: Sequence[int]
) -> dict[int, Tensor]:
    """Return, for each `k`, whether any of the `k` most similar gallery rows has the query's class, bool (Q,).

    The similarity (Q, G) is of queries to gallery, the labels (Q,) and (G,); ranks are capped at G.
    """
    num_gallery = similarity.shape[1]
    order = similarity.topk(min(max(ks), num_gallery), dim=1).indices
    hits = gallery_labels[order] == query_labels[:, None]
    return {k: hits[:, :k].any(dim=1) for k in ks}


def chance_recall_at_k(query_labels: Tensor, gallery_labels: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Return what the mean of `recall_hits` is expected to be for a random order of the gallery.

    With n of G gallery rows of the query's class, the chance of a hit is 1 - C(G - n, k) / C(G, k).
    """
    num_gallery = len(gallery_labels)
    num_classes = 1 + int(max(query_labels.max(), gallery_labels.max()))
    same_class = torch.bincount(gallery_labels, minlength=num_classes)[query_labels].numpy()
    return {k: float(100 * hypergeom.sf(0, num_gallery, same_class, min(k, num_gallery)).mean()) for k in ks}


def most_frequent(train_labels: Tensor, test_labels: Tensor, k: int = 1) -> float:
    """Return how many test videos, of classes (U,), are of the `k` classes with most training videos (V,)."""
    counts = torch.bincount(train_labels)
    return percent(torch.isin(test_labels, counts.topk(min(k, len(counts))).indices))


def at_least_uniform(chance: Mapping[str, float], num_classes: int) -> dict[str, float]:
    """Return chance levels, those of accuracies raised to what a guess among all classes gets.

    The most frequent classes of a fold's training videos may by chance be rare among its test videos.
    """

    def floor(name: str) -> float:
        _, is_top, k = name.rpartition("/top")
        count = int(k) if is_top else int(name.startswith("diagnosis/"))
        return 100 * min(1.0, count / num_classes)

    return {name: max(level, floor(name)) for name, level in chance.items()}


def percent(hits: Tensor) -> float:
    """Return how many of some rows, bool (V,), are hits."""
    return 100 * int(hits.sum()) / len(hits)
