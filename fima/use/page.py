"""A page with players for the query and what was found; everything is inside the one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fima.errors import VideoError
from fima.visual.html import render
from fima.visual.report.media import MediaStore, Moment, excerpt

MOST_SECONDS = 6.0


def search_page(query: Path, found: Sequence[Mapping[str, Any]], *, title: str, frame_rate: float = 0.0) -> str:
    """Return the page as HTML, for a query and the records of `fima search --json`, the nearest first.

    By `frame_rate`, seconds are counted in files that do not state theirs; 0: unknown.
    """
    media = MediaStore(num_bytes=100_000_000)
    hits = []
    for hit in found:
        moment = None if hit["start_seconds"] is None else (hit["start_seconds"], hit["end_seconds"])
        label = f"{hit['rank']}. similarity {hit['similarity']:.3f}"
        hits.append(_card(media, Path(hit["path"]), moment, label, frame_rate))
    whole = _card(media, query, None, "Query", frame_rate)
    return render("fima.use", "search.html", title=title, media=media, query=whole, hits=hits)


def _card(media: MediaStore, path: Path, moment: Moment | None, label: str, frame_rate: float) -> dict[str, Any]:
    """What the page says of one video: its name in the media store (None where it is not there), and why."""
    name, reason = None, "left out: the page would grow too large"
    shown = moment or (0.0, MOST_SECONDS)
    try:
        frames, fps = excerpt(path, height=160, seconds=MOST_SECONDS, max_fps=12.0, moment=shown, frame_rate=frame_rate)
        name = media.add(f"{path} {moment}", frames, fps)
    except VideoError as error:
        reason = f"cannot be shown: {error.reason}"
    when = "" if moment is None else f", {moment[0]:.1f} to {moment[1]:.1f} s"
    return {"label": label, "path": path, "when": when, "video": name, "reason": reason}
