"""Maps of the features with thumbnails, and how similar clips are to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fima.evaluate.features import Features
from fima.evaluate.retrieval import centred
from fima.visual.report.charts import Chart, embedding_chart, similarity_chart
from fima.visual.report.media import THUMB_PX, THUMBS_PER_ROW, sprite
from fima.visual.report.projection import projections
from fima.visual.report.sections import Table

MOST_MAPPED = 400
SIMILARITY_VIDEOS = 250
SIMILARITY_CLIPS = 2_500
"""Pairs take memory by the square of the clips, of which an evaluation may have many of each video."""


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
