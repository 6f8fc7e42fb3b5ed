"""Exact nearest neighbours among vectors, by cosine."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fima.embedding.table import Floats

ROWS_AT_ONCE = 65_536
SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Hit:
    """A row of the index."""

    row: int
    """Its place."""
    similarity: float
    """Cosine, -1 to 1."""


class SearchIndex:
    """N vectors, prepared once: their mean and their lengths, so that a search reads every vector once.

    cosine(q − m, x − m) for every row x, with m the mean of the rows: features of a ReLU are all positive, so that
    without it every pair is similar. The `retrieval` protocol does the same.

    Args:
        vectors: (N, C), float32; not copied where it can be written to.
        centre: subtract the mean.
    """

    def __init__(self, vectors: Floats, *, centre: bool = True) -> None:
        self._vectors = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
        parts = torch.split(self._vectors, ROWS_AT_ONCE)
        total = sum((part.sum(dim=0).double() for part in parts), torch.zeros(vectors.shape[1]).double())
        self._mean = (total / max(1, len(vectors))).float() if centre else torch.zeros(vectors.shape[1])
        lengths = [torch.linalg.vector_norm(part - self._mean, dim=1) for part in parts]
        self._scale = 1 / torch.cat(lengths).clamp(min=SMALLEST_NORM)

    def __len__(self) -> int:
        return len(self._vectors)

    def similarities(self, query: Tensor) -> Tensor:
        """Cosines (N,) of a query (C,) with every row."""
        centred = query.float() - self._mean
        centred = centred / torch.linalg.vector_norm(centred).clamp(min=SMALLEST_NORM)
        cosines: Tensor = (self._vectors @ centred - self._mean @ centred) * self._scale
        return cosines

    def search(self, query: Tensor, k: int) -> list[Hit]:
        """Return the k nearest rows to a query (C,), the nearest first; fewer where there are fewer."""
        best = self.similarities(query).topk(min(k, len(self)))
        return [Hit(row, value) for row, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
