"""Nearest neighbours: do training videos show the class of a video (kNN, retrieval), or only its background?"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fima.evaluate.metrics import chance_recall_at_k, recall_hits

RANKS = (1, 5, 10, 20, 50)
ROWS_AT_ONCE = 512
"""Queries at a time: the similarities of all of them, with all training videos, may be larger than memory."""
NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07


def retrieve(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, is_fold: bool = False
) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Retrieve training videos (V, C) by the cosine of features from which each split's own mean was subtracted.

    Rows of test videos are (U, C), labels (V,) and (U,). Of a fold, which may be a few videos of one person, the mean
    of the training videos is subtracted. Returns, by rank k, whether a test video has its class among the k nearest
    training videos, bool (U,), and the percentage of hits expected for a random order.
    """
    queries, gallery = centred(test, train if is_fold else test), centred(train)
    parts = zip(torch.split(queries, ROWS_AT_ONCE), torch.split(test_labels, ROWS_AT_ONCE), strict=True)
    hits = [recall_hits(rows @ gallery.T, labels, train_labels, RANKS) for rows, labels in parts]
    chance = chance_recall_at_k(test_labels, train_labels, RANKS)
    return {k: torch.cat([part[k] for part in hits]) for k in RANKS}, chance


class SameVideo(NamedTuple):
    """How often a clip's nearest neighbour is another clip of its own video, and is by chance; in percent."""

    share: float
    chance: float
    num_left_out: int
    """Videos that have no two different clips."""


def same_video_share(clips: Tensor) -> SameVideo | None:
    """Look for the nearest neighbours of clips; None where no video has two different ones.

    Features (V, num_clips, C) are centred and compared by cosine, as for retrieval; of clips of a video that are the
    same, as in a short one, the first counts. High shares mean that features tell single videos apart by what stays the
    same in them, such as the background.
    """
    different = [torch.unique(own, dim=0) for own in clips]
    counts = torch.tensor([len(own) for own in different])
    rows = centred(torch.cat(different))
    video = torch.arange(len(clips)).repeat_interleave(counts)
    asked = (counts > 1).repeat_interleave(counts).nonzero()[:, 0]
    if not len(asked):
        return None
    hits = 0
    for queries in torch.split(asked, ROWS_AT_ONCE):
        similarity = rows[queries] @ rows.T
        similarity[torch.arange(len(queries)), queries] = -torch.inf
        hits += int((video[similarity.argmax(dim=1)] == video[queries]).sum())
    others = (counts[video[asked]] - 1).double() / (len(rows) - 1)
    return SameVideo(
        share=100 * hits / len(asked), chance=float(100 * others.mean()), num_left_out=int((counts < 2).sum())
    )


def centred(features: Tensor, origin: Tensor | None = None) -> Tensor:
    """Return rows (…, C) minus the mean of the rows `origin`, (…, C), or their own, L2-normalised, in float64."""
    mean = (features if origin is None else origin).double().flatten(0, -2).mean(dim=0)
    return functional.normalize(features.double() - mean, dim=-1)


def knn_scores(
    train: Tensor, train_labels: Tensor, test: Tensor, *, num_classes: int, num_neighbours: int = NUM_NEIGHBOURS
) -> Tensor:
    """Let the `num_neighbours` nearest training videos by cosine vote, each with weight exp(cosine / 0.07).

    Training features are (V, C) of classes (V,), test features (U, C); of fewer, all V vote. The votes are
    (U, num_classes).
    """
    queries, gallery = (functional.normalize(rows.double(), dim=1) for rows in (test, train))
    votes = torch.zeros(len(test), num_classes, dtype=torch.float64)
    for rows, own in zip(torch.split(queries, ROWS_AT_ONCE), torch.split(votes, ROWS_AT_ONCE), strict=True):
        nearest = (rows @ gallery.T).topk(min(num_neighbours, len(train)), dim=1)
        # Relative to the nearest one: the same vote, without overflow at low temperatures.
        weights = ((nearest.values - nearest.values[:, :1]) / TEMPERATURE).exp()
        own.scatter_add_(1, train_labels[nearest.indices], weights)
    return votes
