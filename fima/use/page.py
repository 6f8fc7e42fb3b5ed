"""A page with players for the query and what was found; everything is inside the one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fima.data.decode.video import VideoReader
from fima.errors import VideoError
from fima.visual.html import render
from fima.visual.overlay import Picture, resized
from fima.visual.report.media import MediaStore
from fima.visual.video_out import UNKNOWN_FPS

HEIGHT_PX = 160
MOST_FPS = 12.0
MOST_SECONDS = 6.0
PAGE_BYTES = 100_000_000

Moment = tuple[float, float]
"""From and to which second of a video."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One video of the page."""

    label: str
    path: Path
    when: str
    """Which moment of it is meant; empty for the whole video."""
    video: str | None
    """Its name in the media store; None where there is no video."""
    reason: str


def search_page(query: Path, found: Sequence[tuple[str, Moment | None, float]], *, title: str) -> str:
    """Return the page as HTML: path, seconds (None: the whole video) and similarity of each hit, the nearest first."""
    media = MediaStore(PAGE_BYTES)
    hits = [
        _card(media, Path(path), moment, f"{number}. similarity {similarity:.3f}")
        for number, (path, moment, similarity) in enumerate(found, start=1)
    ]
    whole = _card(media, query, None, "Query")
    return render("fima.use", "search.html", title=title, media=media, query=whole, hits=hits)


def _card(media: MediaStore, path: Path, moment: Moment | None, label: str) -> Card:
    name, reason = None, "left out: the page would grow too large"
    try:
        frames, fps = _frames(path, moment)
        name = media.add(f"{path} {moment}", frames, fps)
    except VideoError as error:
        reason = f"cannot be shown: {error.reason}"
    return Card(
        label=label,
        path=path,
        when="" if moment is None else f", {moment[0]:.1f} to {moment[1]:.1f} s",
        video=name,
        reason=reason,
    )


def _frames(path: Path, moment: Moment | None) -> tuple[list[Picture], float]:
    """The frames of a moment, small, from its beginning on for some seconds, and how many are a second."""
    with VideoReader(path) as reader:
        fps = reader.fps if reader.fps > 0 else UNKNOWN_FPS
        start, end = moment or (0.0, reader.num_frames / fps)
        first = min(reader.num_frames - 1, round(start * fps))
        last = min(reader.num_frames, max(first + 1, round(end * fps)))
        every = max(1, round(fps / MOST_FPS))
        wanted = range(first, min(last, first + max(1, round(MOST_SECONDS * fps))), every)
        return [resized(reader.read([index])[0], HEIGHT_PX) for index in wanted], fps / every
