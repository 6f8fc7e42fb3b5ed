"""Nearest neighbours: do training videos show the class of a video (kNN, retrieval), or only its background?"""

import torch
from torch import Tensor
from torch.nn import functional

from fima.evaluate.metrics import chance_recall_at_k, recall_hits

RANKS = (1, 5, 10, 20, 50)
ROWS_AT_ONCE = 512
NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07


def retrieve(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Retrieve training videos (V, C) by the cosine of features from which each split's own mean was subtracted.

    Rows of test videos are (U, C), labels (V,) and (U,). Returns, by rank k, whether a test video has its class among
    the k nearest training videos, bool (U,), and the percentage of hits expected for a random order.
    """
    hits = recall_hits(centred(test) @ centred(train).T, test_labels, train_labels, RANKS)
    return hits, chance_recall_at_k(test_labels, train_labels, RANKS)


def same_video_share(clips: Tensor) -> float:
    """Return how often the nearest neighbour of a clip is another clip of its own video, in percent.

    Features (V, num_clips, C) of two or more clips a video are centred and compared by cosine, as for retrieval. High
    values mean that they tell single videos apart by what stays the same in them, such as the background.
    """
    num_videos, num_clips, size = clips.shape
    assert num_clips > 1, "one clip has no other clip of its video"
    rows = centred(clips.reshape(-1, size))
    video = torch.arange(num_videos).repeat_interleave(num_clips)
    hits = 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        similarity = rows[start : start + ROWS_AT_ONCE] @ rows.T
        position = torch.arange(len(similarity))
        similarity[position, start + position] = -torch.inf
        hits += int((video[similarity.argmax(dim=1)] == video[start + position]).sum())
    return 100 * hits / len(rows)


def centred(features: Tensor) -> Tensor:
    """Return rows (…, C) minus their mean, L2-normalised, in float64."""
    rows = features.double()
    return functional.normalize(rows - rows.flatten(0, -2).mean(dim=0), dim=-1)


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
