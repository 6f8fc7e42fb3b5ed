"""How long an exact search takes: `python benchmarks/search.py --vectors 1_000_000 --features 512`."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import tyro

from fima.use.search import SearchIndex
from fima.use.table import Embeddings, read_embeddings, write_embeddings

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
        paths=[f"/videos/{number:08d}.mp4" for number in range(len(vectors))],
        about={"encoder": {}, "clips": {}, "per": "video"},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"index.{arguments.format}")
        _, writing = timed(lambda: write_embeddings(path, made))
        stored, reading = timed(lambda: read_embeddings(path))
        index, preparing = timed(lambda: SearchIndex(stored.vectors))
        queries = rng.random((arguments.queries, arguments.features), dtype=np.float32)
        times = []
        for query in queries:
            hits, seconds = timed(lambda query=query: index.search(query, arguments.k))  # type: ignore[misc]
            times.append(seconds)
        command = [sys.executable, "-m", "fima", "search", str(path), made.paths[0], "--quiet"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _, whole = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    mean = vectors.mean(axis=0, dtype=np.float64)
    asked = queries[-1].astype(np.float64) - mean
    cosines = np.concatenate(
        [(rows - mean) @ asked / np.linalg.norm(rows - mean, axis=1) for rows in np.array_split(vectors, 50)]
    )
    exact = [hit.row for hit in hits] == np.argsort(-cosines)[: arguments.k].tolist()
    print(f"{len(index):,} vectors of {arguments.features} numbers, {os.cpu_count()} cores")
    print(f"{arguments.format}: written in {writing:.2f} s, read in {reading:.2f} s, prepared in {preparing:.2f} s")
    print(f"a search: median {np.median(times):.3f} s, slowest {max(times):.3f} s; the exact nearest: {exact}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"`fima search` for a video of the index, from its start to its end: {whole:.2f} s, processor time {used:.2f} s"
    )


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a function gives, and how long it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main(tyro.cli(Arguments))
