"""Exact nearest neighbours among vectors, by cosine."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fima.data.workers.killable_pool import available_cores
from fima.errors import DataError
from fima.use.table import Floats

ROWS_AT_ONCE = 512
"""Rows that are worked on at a time, in each thread: few enough for the processor's cache."""
SMALLEST_NORM = 1e-12
LARGEST = 1e15
"""Of longer vectors, a sum of squares can leave the range of float32."""
SMALLEST_SHARE = 1e-6
"""A centred vector that is shorter than this share of the mean is rounding: it points nowhere."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Hit:
    """A row of the index."""

    row: int
    similarity: float
    """Cosine, -1 to 1."""


class SearchIndex:
    """N vectors, prepared once: their mean and their lengths, so that a search reads every vector once.

    cosine(q − m, x − m) for every row x, with m the mean of the rows: features of a ReLU are all positive, so that
    without it every pair is similar. The `retrieval` protocol does the same.

    Args:
        vectors: (N, C), float32; not copied, and may be a file that is mapped into memory.
        centre: subtract the mean.

    Raises:
        DataError: a vector is not finite.
    """

    def __init__(self, vectors: Floats, *, centre: bool = True) -> None:
        self._vectors = np.asarray(vectors, np.float32)
        self._mean: Floats = np.zeros(vectors.shape[1], np.float32)
        if centre and len(vectors):
            total = np.stack(self._of_parts(lambda part: part.sum(axis=0))).sum(axis=0, dtype=np.float64)
            self._mean = np.asarray(total / len(vectors), np.float32)
        lengths = np.sqrt(np.concatenate(self._of_parts(self._squared_lengths)))
        if not np.isfinite(lengths).all():  # one is enough for a mean that is none
            bad = np.isnan(self._vectors) | (np.abs(self._vectors) > LARGEST)
            odd = np.flatnonzero(bad.any(axis=1))
            row = odd[0] if len(odd) else 0
            raise DataError(f"{len(odd):,} of {len(self):,} vectors are not finite, such as row {row}")
        self._smallest = max(SMALLEST_SHARE * float(np.linalg.norm(self._mean)), SMALLEST_NORM)
        self._scale = np.where(lengths > self._smallest, 1 / np.maximum(lengths, self._smallest), 0)
        self.all_equal = len(self) > 0 and not self._scale.any()
        """Whether the vectors do not differ, so that their order says nothing."""

    def __len__(self) -> int:
        return len(self._vectors)

    def similarities(self, query: npt.ArrayLike) -> Floats:
        """Cosines (N,) of a query (C,) with every row; 0 where either is the mean."""
        centred = np.asarray(query, np.float32) - self._mean
        length = float(np.linalg.norm(centred))
        centred = centred / length if length > self._smallest else np.zeros_like(centred)
        cosines: Floats = (self._vectors @ centred - self._mean @ centred) * self._scale
        return np.clip(cosines, -1, 1)

    def search(self, query: npt.ArrayLike, k: int) -> list[Hit]:
        """Return the k nearest rows to a query (C,), the nearest first; fewer where there are fewer."""
        cosines = self.similarities(query)
        k = min(k, len(self))
        if not k:
            return []
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
