"""Maps of the features in two dimensions, with thumbnails, and how similar clips are to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from fima.data.workers.killable_pool import Failed, run_isolated
from fima.evaluate.features import Features
from fima.evaluate.retrieval import centred
from fima.visual.report.charts import Chart, embedding_chart, similarity_chart
from fima.visual.report.media import THUMB_PX, THUMBS_PER_ROW, sprite
from fima.visual.report.sections import Table

MOST_MAPPED = 400
SIMILARITY_VIDEOS = 250
SIMILARITY_CLIPS = 2_500
"""Pairs take memory by the square of the clips, of which an evaluation may have many of each video."""
LARGEST_PERPLEXITY = 30.0
FEWEST_VIDEOS = 3
SMALLEST_SPREAD = 1e-6
"""Of features that differ by less than this share of their size, a map would show rounding errors."""
TIMEOUT_SECONDS = 900.0

Projections = dict[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """What the page shows of the features of one run."""

    projections: Sequence[Chart]
    missing: str
    """Why there are no projections; empty where there are some."""
    sprite: str | None
    """Address of the image that holds the thumbnails; None where that of an earlier run serves."""
    facts: Mapping[str, object]
    """For the page's script: the sprite's name, the size of its thumbnails, and the names of the videos."""
    similarity: Chart | None
    videos: Table


def feature_map(test: Features, classes: Sequence[str], sprites: dict[tuple[Path, ...], str]) -> FeatureMap:
    """Return what the page shows of a run's features; `sprites` has the names of those that earlier runs have made."""
    rows = torch.arange(len(test.paths))[:: max(1, -(-len(test.paths) // MOST_MAPPED))]
    vectors, labels = test.per_video[rows].cpu(), test.labels[rows].tolist()
    points, missing = projections(vectors.numpy(), centred(vectors).numpy())
    paths = [Path(test.paths[row]) for row in rows.tolist()]
    videos = [(path.name, classes[label] if label >= 0 else "") for path, label in zip(paths, labels, strict=True)]
    is_new = tuple(paths) not in sprites
    similarities = _similarities(test)
    return FeatureMap(
        projections=[embedding_chart(name, found, labels, classes) for name, found in points.items()],
        missing=missing,
        facts={
            "sprite": sprites.setdefault(tuple(paths), f"sprite-{len(sprites)}"),
            "px": THUMB_PX,
            "columns": THUMBS_PER_ROW,
            "names": [f"{label} · {name}" if label else name for name, label in videos],
        },
        sprite=sprite(paths) if points and is_new else None,
        similarity=similarity_chart(similarities) if similarities else None,
        videos=Table(caption="Videos of the map", header=["video", "class"], rows=videos),
    )


def _similarities(test: Features) -> dict[str, NDArray[np.floating[Any]]]:
    """Cosines between clips: of one video, of the same class, of other classes (of other videos without labels)."""
    num_videos, num_clips = test.pooled.shape[:2]
    most = min(SIMILARITY_VIDEOS, max(2, SIMILARITY_CLIPS // num_clips))
    step = max(1, -(-num_videos // most))
    clips, labels = centred(test.pooled[::step]), test.labels[::step]
    num_videos, num_clips = clips.shape[:2]
    rows = clips.flatten(0, 1)
    cosine = rows @ rows.T
    video = torch.arange(num_videos).repeat_interleave(num_clips)
    label = labels.repeat_interleave(num_clips)
    upper = torch.ones_like(cosine, dtype=torch.bool).triu(diagonal=1)
    same_video = video[:, None] == video[None]
    same_class = (label[:, None] == label[None]) & (label[:, None] >= 0) & ~same_video
    # Nothing to show where all clips of a video are the same, such as those of the whole of it.
    clips_differ = not bool((clips == clips[:, :1]).all())
    groups = {
        "clips of one video": same_video & clips_differ,
        "videos of one class": same_class,
        "other videos" if int(label.max()) < 0 else "videos of different classes": ~same_video & ~same_class,
    }
    return {name: cosine[chosen & upper].numpy() for name, chosen in groups.items() if bool((chosen & upper).any())}


def projections(features: NDArray[np.float32], directions: NDArray[np.float32]) -> tuple[Projections, str]:
    """Return the `directions` of features, both (V, C), in two dimensions, (V, 2) by method, or none and the reason."""
    if len(features) < FEWEST_VIDEOS:
        return {}, f"fewer than {FEWEST_VIDEOS} videos"
    if not (np.isfinite(features).all() and np.isfinite(directions).all()):
        return {}, "features that are no finite numbers"
    if np.ptp(features, axis=0).max() <= SMALLEST_SPREAD * np.abs(features).max():
        return {}, "all features are equal: constant videos, or a collapsed encoder"
    # t-SNE builds trees in native code, which has crashed on rows that are equal.
    outcomes = run_isolated(project, [directions], workers=1, timeout_seconds=TIMEOUT_SECONDS)
    _, outcome = next(outcomes)
    outcomes.close()
    return ({}, outcome.reason) if isinstance(outcome, Failed) else (outcome, "")


def project(rows: NDArray[np.float32]) -> Projections:
    """Project rows (V, C), V of at least 3, by t-SNE and by PCA."""
    perplexity = min(LARGEST_PERPLEXITY, (len(rows) - 1) / 3)
    nearby = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)
    return {"t-SNE": nearby, "PCA": PCA(2, random_state=0).fit_transform(rows)}
