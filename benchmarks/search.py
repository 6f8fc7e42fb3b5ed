"""How long an exact search takes: `python benchmarks/search.py --vectors 1_000_000 --features 512`."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import tyro

from fima.embedding.search import SearchIndex
from fima.embedding.table import Embeddings, read_embeddings, write_embeddings

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write an index of random vectors, read it, and search it as `fima search` does."""

    vectors: int = 1_000_000
    """Rows of the index."""
    features: int = 512
    """Numbers of a vector."""
    k: int = 10
    """How many to find."""
    queries: int = 10
    """Searches; the slowest and the median are printed."""
    format: str = "safetensors"
    """`npz`, `safetensors` or `parquet`."""


def main(arguments: Arguments) -> None:
    """Print the times, and check the last search against NumPy in float64."""
    rng = np.random.default_rng(0)
    vectors = rng.random((arguments.vectors, arguments.features), dtype=np.float32)
    made = Embeddings(
        vectors=vectors,
        seconds=np.zeros((len(vectors), 2)),
        video=np.arange(len(vectors)),
        paths=[f"videos/{number:08d}.mp4" for number in range(len(vectors))],
        about={},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"index.{arguments.format}")
        _, writing = timed(lambda: write_embeddings(path, made))
        stored, reading = timed(lambda: read_embeddings(path))
    index, preparing = timed(lambda: SearchIndex(stored.vectors))
    queries = torch.from_numpy(rng.random((arguments.queries, arguments.features), dtype=np.float32))
    times = []
    for query in queries:
        hits, seconds = timed(lambda query=query: index.search(query, arguments.k))  # type: ignore[misc]
        times.append(seconds)
    mean = vectors.mean(axis=0, dtype=np.float64)
    asked = queries[-1].double().numpy() - mean
    cosines = np.concatenate(
        [(rows - mean) @ asked / np.linalg.norm(rows - mean, axis=1) for rows in np.array_split(vectors, 50)]
    )
    exact = [hit.row for hit in hits] == np.argsort(-cosines)[: arguments.k].tolist()
    print(f"{len(index):,} vectors of {arguments.features} numbers, {torch.get_num_threads()} threads")
    print(f"{arguments.format}: written in {writing:.2f} s, read in {reading:.2f} s, prepared in {preparing:.2f} s")
    print(f"a search: median {np.median(times):.3f} s, slowest {max(times):.3f} s; the exact nearest: {exact}")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a function gives, and how long it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main(tyro.cli(Arguments))
