"""The parts of the page that are made from videos: activation, retrieval, the map of the features."""

from collections.abc import Sequence
from pathlib import Path

from fima.visual.report.charts import embedding_chart, similarity_chart
from fima.visual.report.gallery import Galleries, Query, RunGallery
from fima.visual.report.markup import Markup, details, element, joined, script_json, table
from fima.visual.report.media import THUMB_PX, THUMBS_PER_ROW, MediaStore, sprite
from fima.visual.report.sections import Charts

NO_ROOM = "left out: the page would grow too large"


def _why_not(galleries: Galleries, *, wanted: bool) -> Markup:
    """Says of which runs there is nothing to see, and why."""
    if not wanted:
        return element("p", "Left out on request (--no-gallery).")
    return joined(element("p", f"{name}: {reason}", class_="note") for name, reason in galleries.reasons.items())


def _video(media: MediaStore, name: str | None, what: str) -> Markup:
    """A silent video without controls of its own; the page's buttons play it."""
    if name is None:
        return element("div", "cannot be shown", class_="missing", role="img", aria_label=f"{what}: cannot be shown")
    silent = {"muted": True, "loop": True, "playsinline": True, "preload": "auto"}
    return element("video", **silent, data_media=name, poster=media.posters[name], aria_label=what)


def _player(media: MediaStore, name: str | None, what: str) -> Markup:
    """A video with a button and a slider below it, so that neither covers the picture."""
    if name is None:
        return element("p", NO_ROOM, class_="note")
    button = element("button", "▶ play", type="button", class_="play", aria_label=f"play {what}")
    slider = element("input", type="range", min=0, max=1, step="any", value=0, aria_label=f"position in {what}")
    return element("div", _video(media, name, what), element("div", button, slider, class_="controls"), class_="player")


def activation(galleries: Galleries, media: MediaStore, *, wanted: bool) -> Markup:
    """Players of videos beside the maps of all runs."""
    parts: list[Markup] = [_why_not(galleries, wanted=wanted)]
    if galleries.activation:
        parts.append(
            element(
                "p",
                "Each video beside the class-agnostic activation maps of the last checkpoints: dark is the lowest, "
                "bright the highest value of a map in the whole video; each run has its own scale.",
            )
        )
    for video in galleries.activation:
        title = f"{video.class_name} · {video.path.name}" if video.class_name else video.path.name
        shown = _player(media, video.media, f"{title}: {', '.join(video.names)}")
        parts.append(element("figure", shown, element("figcaption", title), class_="wide"))
    return element("div", *parts, class_="activation")


def retrieval(galleries: Galleries, media: MediaStore, *, wanted: bool) -> Markup:
    """Queries with their nearest training videos."""
    parts: list[Markup] = [_why_not(galleries, wanted=wanted)]
    for gallery in galleries.runs:
        parts.append(element("h3", gallery.run.name))
        parts += [_query(query, media) for query in gallery.queries]
    return joined(parts)


def _query(query: Query, media: MediaStore) -> Markup:
    name = f"{query.class_name} · {query.path.name}" if query.class_name else query.path.name
    first = _cell(query.path, media, "query", query.class_name or query.path.name, "query")
    cells = [first]
    for rank, neighbour in enumerate(query.neighbours, start=1):
        verdict = {True: "✓ same class", False: "✗ other class", None: ""}[neighbour.right]
        kind = {True: "right", False: "wrong", None: ""}[neighbour.right]
        text = f"{neighbour.class_name or neighbour.path.name} · {neighbour.similarity:.2f}"
        cells.append(_cell(neighbour.path, media, f"{rank}. {verdict}".strip(), text, kind))
    button = element("button", "▶ play", type="button", class_="play")
    label = f"Query {name} and its nearest training videos"
    return element("div", button, element("ol", *cells), class_="query-row", role="group", aria_label=label)


def _cell(path: Path, media: MediaStore, head: str, text: str, kind: str) -> Markup:
    player = _video(media, media.add_preview(path), f"{head}, {text}, {path.name}")
    caption = element("span", head, class_="verdict"), element("span", text, class_="what")
    return element("li", player, *caption, class_=f"neighbour {kind}".strip(), title=path.name)


def embedding(galleries: Galleries, charts: Charts, *, wanted: bool) -> Markup:
    """Maps of the features with thumbnails, and how similar clips are to each other."""
    parts: list[Markup] = [_why_not(galleries, wanted=wanted)]
    sprites: dict[tuple[Path, ...], str] = {}
    for number, gallery in enumerate(galleries.runs):
        classes = gallery.lists.test.classes
        parts.append(element("h3", gallery.run.name))
        if gallery.projections:
            files = tuple(gallery.mapped)
            if files not in sprites:
                sprites[files] = f"sprite-{number}"
                parts.append(script_json(sprites[files], sprite(files)))
            parts.append(_map(gallery, charts, sprites[files], number))
        if gallery.similarities:
            parts.append(charts.figure(similarity_chart(gallery.similarities)))
        rows = [
            [path.name, classes[label] if label >= 0 else ""]
            for path, label in zip(gallery.mapped, gallery.mapped_labels, strict=True)
        ]
        parts.append(details("The videos of the map", table(["video", "class"], rows, caption="Videos of the map")))
    return joined(parts)


def _map(gallery: RunGallery, charts: Charts, sprite_name: str, number: int) -> Markup:
    classes = gallery.lists.test.classes
    figures = [
        charts.figure(embedding_chart(name, points, gallery.mapped_labels, classes))
        for name, points in gallery.projections.items()
    ]
    names = _names(gallery.mapped, gallery.mapped_labels, classes)
    facts = {"sprite": sprite_name, "px": THUMB_PX, "columns": THUMBS_PER_ROW, "names": names}
    return element("div", *figures, script_json(f"map-{number}", facts), class_="embedding", data_map=f"map-{number}")


def _names(paths: Sequence[Path], labels: Sequence[int], classes: Sequence[str]) -> list[str]:
    return [
        f"{classes[label]} · {path.name}" if label >= 0 else path.name
        for path, label in zip(paths, labels, strict=True)
    ]
