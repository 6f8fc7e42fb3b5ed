"""Weighted nearest-neighbour classification of frozen features."""

import torch
from torch import Tensor
from torch.nn import functional

NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    *,
    num_classes: int,
    num_neighbours: int = NUM_NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Let the nearest training videos by cosine vote, each with weight exp(cosine / temperature).

    Args:
        train: (V, C) training features.
        train_labels: (V,) class numbers.
        test: (U, C) test features.
        num_classes: classes.
        num_neighbours: voters; capped at V.
        temperature: of the weights.

    Returns:
        Votes (U, num_classes).
    """
    similarity = functional.normalize(test.double(), dim=1) @ functional.normalize(train.double(), dim=1).T
    nearest = similarity.topk(min(num_neighbours, len(train)), dim=1)
    # Relative to the nearest one: the same vote, without overflow at low temperatures.
    weights = ((nearest.values - nearest.values[:, :1]) / temperature).exp()
    votes = torch.zeros(len(test), num_classes, dtype=torch.float64)
    return votes.scatter_add_(1, train_labels[nearest.indices], weights)
