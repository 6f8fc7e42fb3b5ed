"""The embeddings of a list of videos, cached while they are computed, so that a call that was interrupted continues."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from fima.checkpoints.checkpoint import versions
from fima.data.eval_clips import ClipSettings
from fima.errors import DataError
from fima.evaluate.extract import Resources
from fima.evaluate.feature_store import FeatureStore, Per
from fima.evaluate.features import FeatureSource
from fima.evaluate.frozen import FrozenEncoder
from fima.torch_tools import distributed
from fima.use.table import Embeddings


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What came out."""

    embeddings: Embeddings
    skipped: list[tuple[str, str]]
    """Videos that cannot be decoded, with the reason."""
    num_before: int
    """Videos whose rows an earlier, interrupted call had left."""
    seconds: float
    """How long the others took."""


def embed_videos(
    encoder: FrozenEncoder,
    paths: Sequence[Path],
    settings: ClipSettings,
    resources: Resources,
    *,
    per: Per,
    parts: Path,
    report: Callable[[int, int], None] | None = None,
) -> Embedded | None:
    """Embed videos, each once; what is done is kept in the folder `parts` until everything is done.

    With several processes, all of them call it, and each takes its share of the videos. The main one gets a row for
    each clip, video or second, and calls `report` with the videos done and those to do; the others get None. Raises
    DataError where a file cannot be read, or not one video can be decoded.
    """
    began = time.monotonic()
    # Nobody knows whether a function without a key is still the same.
    cache = parts if encoder.key is not None else None
    source = FeatureSource(name=encoder.fingerprint, pool=encoder.vectors)
    store = FeatureStore(source, settings, resources, per=per, cache=cache, report=report)
    num_new = store.fill(paths)
    if not distributed.is_main():
        return None
    results = [(str(path), store.rows(path)) for path in sorted(paths, key=str)]
    skipped = [(path, rows) for path, rows in results if isinstance(rows, str)]
    found = [(path, rows) for path, rows in results if not isinstance(rows, str)]
    if not found:
        raise DataError(f"none of {len(skipped)} videos can be decoded; {skipped[0][0]}: {skipped[0][1]}")
    embeddings = Embeddings(
        vectors=torch.cat([rows.rows.mean(dim=1) for _, rows in found]).numpy(),
        seconds=torch.cat([rows.seconds for _, rows in found]).numpy(),
        video=np.repeat(np.arange(len(found)), [len(rows.rows) for _, rows in found]),
        paths=[path for path, _ in found],
        about={
            "encoder": {"description": encoder.name, "fingerprint": encoder.fingerprint},
            "per": per,
            "clips": asdict(settings),
            "versions": versions(),
        },
    )
    seconds = time.monotonic() - began
    return Embedded(embeddings=embeddings, skipped=skipped, num_before=len(paths) - num_new, seconds=seconds)
