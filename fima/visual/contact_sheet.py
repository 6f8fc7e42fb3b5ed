"""Contact sheet: the videos of a data set at a glance, one row a video, time from left to right."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fima.data.datasets import Video, VideoList
from fima.data.decode.video import VideoReader
from fima.errors import DataError, VideoError

TILE_HEIGHT_PX = 96
WIDEST_TILE = 16 / 9
GAP_PX = 3
GROUP_GAP_PX = 12
MARGIN_PX = 24
LABEL_PX = 210
BACKGROUND, INK, MUTED = "#ffffff", "#16181d", "#6b7280"
UNREADABLE = 225


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the sheet."""

    label: str
    """Class, or file name where there is no class; empty for a further example of the class above."""
    tiles: list[Image.Image]
    """Frames in temporal order."""


def contact_sheet(
    videos: VideoList, out: Path, *, examples_per_class: int = 2, num_frames: int = 8, max_rows: int = 60
) -> int:
    """Write a contact sheet as PNG.

    Args:
        videos: the videos; the first ones of each class are shown, or the first ones where there are no classes.
        out: the PNG to write.
        examples_per_class: rows a class.
        num_frames: frames a row, evenly spread from the first to the last.
        max_rows: rows at most.

    Returns:
        How many of the chosen videos could not be decoded; they are shown as grey tiles.
    """
    chosen = _choose(videos, examples_per_class)[:max_rows]
    rows, unreadable = [], 0
    for label, video in chosen:
        try:
            tiles = _read_tiles(video.path, num_frames)
        except VideoError:
            unreadable += 1
            tiles = [Image.new("RGB", (TILE_HEIGHT_PX, TILE_HEIGHT_PX), (UNREADABLE,) * 3)] * num_frames
        rows.append(Row(label=label, tiles=tiles))
    out.parent.mkdir(parents=True, exist_ok=True)
    classes = f", {len(videos.classes)} classes" if videos.classes else ""
    title = f"{videos.root.resolve().name} — {videos.split} split, {len(videos.videos):,} videos{classes}"
    _draw(rows, title).save(out)
    return unreadable


def _choose(videos: VideoList, examples_per_class: int) -> list[tuple[str, Video]]:
    """The videos to show, each with the label of its row."""
    if not videos.videos:
        raise DataError(f"{videos.root}: no video to show in the {videos.split} split")
    if not videos.classes:
        return [(video.path.stem, video) for video in videos.videos]
    chosen: list[tuple[str, Video]] = []
    for number, name in enumerate(videos.classes):
        members = [video for video in videos.videos if video.label == number][:examples_per_class]
        chosen += [(name if position == 0 else "", video) for position, video in enumerate(members)]
    return chosen


def _read_tiles(path: Path, num_frames: int) -> list[Image.Image]:
    with VideoReader(path) as reader:
        indices = np.linspace(0, reader.num_frames - 1, num_frames).round().astype(int).tolist()
        return [_tile(frame) for frame in reader.read(indices)]


def _tile(frame: NDArray[np.uint8]) -> Image.Image:
    """Scale to the row's height, after cutting the sides of very wide frames."""
    height, width = frame.shape[:2]
    kept = min(width, round(height * WIDEST_TILE))
    left = (width - kept) // 2
    image = Image.fromarray(np.ascontiguousarray(frame[:, left : left + kept]))
    return image.resize((max(1, round(kept * TILE_HEIGHT_PX / height)), TILE_HEIGHT_PX), Image.Resampling.BICUBIC)


def _draw(rows: list[Row], title: str) -> Image.Image:
    # Pillow's own font lacks the dash, the ellipsis and many scripts of file names.
    face = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    title_font, font, small = (ImageFont.truetype(face, size) for size in (20, 15, 13))
    top = MARGIN_PX + 62
    row_tops: list[int] = []
    for row in rows:
        top += GROUP_GAP_PX if row.label and row_tops else 0
        row_tops.append(top)
        top += TILE_HEIGHT_PX + GAP_PX
    strip_width = max(sum(tile.width + GAP_PX for tile in row.tiles) for row in rows)
    left = MARGIN_PX + LABEL_PX
    sheet = Image.new("RGB", (left + strip_width + MARGIN_PX, top + MARGIN_PX), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX - 6), title, fill=INK, font=title_font)
    draw.text((left, row_tops[0] - 22), "time →", fill=MUTED, font=small)
    for row, row_top in zip(rows, row_tops, strict=True):
        label = _shorten(draw, row.label, font)
        draw.text((MARGIN_PX, row_top + TILE_HEIGHT_PX / 2), label, fill=INK, font=font, anchor="lm")
        x = left
        for tile in row.tiles:
            sheet.paste(tile, (x, row_top))
            x += tile.width + GAP_PX
    return sheet


def _shorten(draw: ImageDraw.ImageDraw, label: str, font: ImageFont.FreeTypeFont) -> str:
    """Cut a label that is wider than its column."""
    if draw.textlength(label, font=font) <= LABEL_PX - 12:
        return label
    while draw.textlength(label + "…", font=font) > LABEL_PX - 12:
        label = label[:-1]
    return label + "…"
