"""Maps of the features with thumbnails, and how similar clips are to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fima.visual.report.charts import Chart, embedding_chart, similarity_chart
from fima.visual.report.gallery import RunGallery
from fima.visual.report.media import THUMB_PX, THUMBS_PER_ROW, sprite
from fima.visual.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """What the page shows of the features of one run."""

    run: str
    projections: Sequence[Chart]
    """The videos as points."""
    missing: str
    """Why there are no projections; empty where there are some."""
    sprite: str | None
    """Address of the image that holds the thumbnails; None where that of an earlier run serves."""
    facts: Mapping[str, object]
    """For the page's script: the sprite's name, the size of its thumbnails, and the names of the videos."""
    similarity: Chart | None
    """Histograms of cosines."""
    videos: Table
    """The points by name and class."""


def feature_maps(galleries: Sequence[RunGallery]) -> list[FeatureMap]:
    """Return what the page shows of the features of each run; runs of the same videos share the thumbnails."""
    found = []
    sprites: dict[tuple[Path, ...], str] = {}
    for number, gallery in enumerate(galleries):
        classes, paths, labels = gallery.lists.test.classes, gallery.mapped, gallery.mapped_labels
        class_names = [classes[label] if label >= 0 else "" for label in labels]
        named = [path.name for path in paths]
        is_new = tuple(paths) not in sprites
        facts = {
            "sprite": sprites.setdefault(tuple(paths), f"sprite-{number}"),
            "px": THUMB_PX,
            "columns": THUMBS_PER_ROW,
            "names": [f"{label} · {name}" if label else name for label, name in zip(class_names, named, strict=True)],
        }
        charts = [embedding_chart(name, points, labels, classes) for name, points in gallery.projections.items()]
        rows = list(zip(named, class_names, strict=True))
        found.append(
            FeatureMap(
                run=gallery.run.name,
                projections=charts,
                missing=gallery.no_projections,
                sprite=sprite(paths) if charts and is_new else None,
                facts=facts,
                similarity=similarity_chart(gallery.similarities) if gallery.similarities else None,
                videos=Table(caption="Videos of the map", header=["video", "class"], rows=rows),
            )
        )
    return found
