"""Exact nearest neighbours among vectors, by cosine."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fima.data.workers.killable_pool import available_cores
from fima.use.table import Floats

ROWS_AT_ONCE = 512
"""Rows that are worked on at a time, in each thread: few enough for the processor's cache."""
SMALLEST_NORM = 1e-12

Result = TypeVar("Result")


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
        vectors: (N, C), float32; not copied, and may be a file that is mapped into memory.
        centre: subtract the mean.
    """

    def __init__(self, vectors: Floats, *, centre: bool = True) -> None:
        self._vectors = np.asarray(vectors, np.float32)
        self._mean: Floats = np.zeros(vectors.shape[1], np.float32)
        if centre and len(vectors):
            total = np.stack(self._of_parts(lambda part: part.sum(axis=0))).sum(axis=0, dtype=np.float64)
            self._mean = np.asarray(total / len(vectors), np.float32)
        lengths = np.sqrt(np.concatenate(self._of_parts(self._squared_lengths)))
        self._scale = 1 / np.maximum(lengths, SMALLEST_NORM)

    def __len__(self) -> int:
        return len(self._vectors)

    def similarities(self, query: npt.ArrayLike) -> Floats:
        """Cosines (N,) of a query (C,) with every row."""
        centred = np.asarray(query, np.float32) - self._mean
        centred = centred / max(float(np.linalg.norm(centred)), SMALLEST_NORM)
        cosines: Floats = (self._vectors @ centred - self._mean @ centred) * self._scale
        return cosines

    def search(self, query: npt.ArrayLike, k: int) -> list[Hit]:
        """Return the k nearest rows to a query (C,), the nearest first; fewer where there are fewer."""
        cosines = self.similarities(query)
        k = min(k, len(self))
        best = np.argpartition(-cosines, k - 1)[:k]
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [Hit(int(row), float(cosines[row])) for row in best]

    def _squared_lengths(self, part: Floats) -> Floats:
        centred = part - self._mean
        squared: Floats = np.einsum("ij,ij->i", centred, centred)
        return squared

    def _of_parts(self, work: Callable[[Floats], Result]) -> list[Result]:
        """What a function makes of the rows, some thousands at a time, in order."""
        parts = [self._vectors[at : at + ROWS_AT_ONCE] for at in range(0, max(1, len(self)), ROWS_AT_ONCE)]
        with ThreadPoolExecutor(available_cores()) as threads:
            return list(threads.map(work, parts))
