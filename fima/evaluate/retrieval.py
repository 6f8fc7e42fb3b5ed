"""Retrieval: do the nearest training videos show the class of the query, or the query's own background?"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fima.evaluate.metrics import chance_recall_at_k, percent, recall_hits

RANKS = (1, 5, 10, 20, 50)
ROWS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall of test videos among training videos."""

    hits: dict[int, Tensor]
    """By rank k: whether a test video has its class among the k nearest training videos, bool (U,)."""
    chance: dict[int, float]
    """Percentage of hits expected for a random order."""

    @property
    def recall(self) -> dict[int, float]:
        """By rank k: percentage of hits."""
        return {k: percent(hits) for k, hits in self.hits.items()}


def retrieve(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Retrieval:
    """Retrieve training videos by the cosine of features from which each split's own mean was subtracted.

    Args:
        train: (V, C) features, averaged over the clips.
        train_labels: (V,) class numbers.
        test: (U, C) features, averaged over the clips.
        test_labels: (U,) class numbers.
    """
    similarity = centred(test) @ centred(train).T
    return Retrieval(
        hits=recall_hits(similarity, test_labels, train_labels, RANKS),
        chance=chance_recall_at_k(test_labels, train_labels, RANKS),
    )


def same_video_share(clips: Tensor) -> float:
    """Return how often the nearest neighbour of a clip is another clip of its own video, in percent.

    Features are centred and compared by cosine, as for retrieval. High values mean that the features tell single
    videos apart by what stays the same in them, such as the background.

    Args:
        clips: (V, num_clips, C) features; num_clips is at least 2.
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
