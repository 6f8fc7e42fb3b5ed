"""A page with players for the query and what was found; everything is inside the one file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fima.data.decode.video import VideoReader
from fima.errors import VideoError
from fima.visual.overlay import Picture, resized
from fima.visual.report.markup import Markup, element, joined
from fima.visual.report.media import MediaStore
from fima.visual.video_out import UNKNOWN_FPS

HEIGHT_PX = 160
MOST_FPS = 12.0
MOST_SECONDS = 6.0
PAGE_BYTES = 100_000_000
STYLE = Markup("""
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
.query { max-width: 18rem; }
.found { display: grid; gap: 1.5rem 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 44%), 1fr)); }
figure { margin: 0; }
video { aspect-ratio: 4 / 3; background: #000; border-radius: 4px; display: block; object-fit: contain; width: 100%; }
figcaption { margin-top: 0.4rem; overflow-wrap: anywhere; }
strong { display: block; }
.folder { display: block; font-size: 0.8em; opacity: 0.7; }
""")


def search_page(query: Path, found: Sequence[tuple[str, tuple[float, float], float]], *, title: str) -> str:
    """Return the page as HTML.

    Args:
        query: the query video.
        found: path, seconds and similarity of each hit, the nearest first.
        title: what was searched.
    """
    media = MediaStore(PAGE_BYTES)
    cards = [
        _card(media, Path(path), seconds, f"{number}. similarity {similarity:.3f}", "hit")
        for number, (path, seconds, similarity) in enumerate(found, start=1)
    ]
    body = [
        element("h1", title),
        _card(media, query, (float("nan"), float("nan")), "Query", "query"),
        element("h2", "Nearest"),
        element("div", *cards, class_="found"),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", STYLE),
    ]
    page = element("html", element("head", *head), element("body", element("main", *body)), lang="en")
    return joined([Markup("<!doctype html>\n"), page, "\n"])


def _card(media: MediaStore, path: Path, seconds: tuple[float, float], label: str, kind: str) -> Markup:
    start, end = seconds
    when = "" if np.isnan(start) else f", {start:.1f} to {end:.1f} s"
    folder, name = str(path)[: -len(path.name)], path.name
    caption = element("figcaption", element("strong", label), element("span", folder, class_="folder"), f"{name}{when}")
    return element("figure", _picture(media, path, start, end), caption, class_=kind)


def _picture(media: MediaStore, path: Path, start: float, end: float) -> Markup:
    """A player, or why there is none."""
    try:
        frames, fps = _frames(path, start, end)
    except VideoError as error:
        return element("p", f"cannot be shown: {error.reason}")
    name = media.add(f"{path} {start} {end}", frames, fps)
    if name is None:
        return element("p", "left out: the page would grow too large")
    source = f"data:video/mp4;base64,{media.contents[name]}"
    poster = media.posters[name]
    return element("video", src=source, poster=poster, controls=True, loop=True, muted=True, playsinline=True)


def _frames(path: Path, start: float, end: float) -> tuple[list[Picture], float]:
    """The frames of a moment, small, from its beginning on for some seconds, and how many are a second."""
    with VideoReader(path) as reader:
        fps = reader.fps if reader.fps > 0 else UNKNOWN_FPS
        first = 0 if np.isnan(start) else min(reader.num_frames - 1, round(start * fps))
        last = reader.num_frames if np.isnan(end) else min(reader.num_frames, max(first + 1, round(end * fps)))
        every = max(1, round(fps / MOST_FPS))
        wanted = range(first, min(last, first + max(1, round(MOST_SECONDS * fps))), every)
        return [resized(reader.read([index])[0], HEIGHT_PX) for index in wanted], fps / every
