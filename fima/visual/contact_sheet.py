"""Contact sheet: the videos of a data set at a glance, one row a video, time from left to right."""

from pathlib import Path

import numpy as np

from fima.data.datasets import Video, VideoList
from fima.data.decode.video import VideoReader
from fima.data.layouts.video_list import counted
from fima.errors import DataError, VideoError
from fima.visual.overlay import Picture, in_a_column, in_a_row, label, resized, save_picture

TILE_HEIGHT_PX = 96
WIDEST_TILE = 16 / 9
GROUP_GAP_PX = 8
MARGIN_PX = 24
LABEL_PX = 210
TITLE_PX, TITLE_FONT_PX = 36, 20
UNREADABLE = 225


def contact_sheet(
    videos: VideoList, out: Path, *, examples_per_class: int = 2, num_frames: int = 8, max_rows: int = 60
) -> int:
    """Write a contact sheet as PNG; return how many videos could not be decoded and are grey tiles.

    A row is a video, `num_frames` from its first to its last; of each class the first videos are shown, or the first
    ones where none has a class. Its title says where there are more than `max_rows`.
    """
    chosen = _choose(videos, examples_per_class)
    rows: list[Picture] = []
    unreadable = 0
    for name, video in chosen[:max_rows]:
        try:
            with VideoReader(video.path) as reader:
                indices = np.linspace(0, reader.num_frames - 1, num_frames).round().astype(int).tolist()
                tiles = [_tile(frame) for frame in reader.read(indices)]
        except VideoError:
            unreadable += 1
            tiles = [np.full((TILE_HEIGHT_PX, TILE_HEIGHT_PX, 3), UNREADABLE, dtype=np.uint8)] * num_frames
        if name and rows:
            rows.append(label("", LABEL_PX, height=GROUP_GAP_PX))
        rows.append(in_a_row([label(name, LABEL_PX, height=TILE_HEIGHT_PX), *tiles]))
    title = _title(videos, len(chosen), max_rows)
    heading = label(title, max(row.shape[1] for row in rows), height=TITLE_PX, font_px=TITLE_FONT_PX)
    sheet = in_a_column([heading, in_a_row([label("", LABEL_PX), label("time →", TILE_HEIGHT_PX)]), *rows])
    margins = ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0))
    save_picture(np.pad(sheet, margins, constant_values=255), out)
    return unreadable


def _title(videos: VideoList, num_rows: int, max_rows: int) -> str:
    classes = f", {len(videos.classes):,} class{'es' if len(videos.classes) > 1 else ''}" if videos.classes else ""
    cut = f"; the first {max_rows:,} of {num_rows:,} rows" if num_rows > max_rows else ""
    return f"{videos.root.resolve().name} — {_part(videos)}, {counted(len(videos.videos), 'video')}{classes}{cut}"


def _part(videos: VideoList) -> str:
    return "all splits" if videos.split == "all" else f"{videos.split} split"


def _choose(videos: VideoList, examples_per_class: int) -> list[tuple[str, Video]]:
    """The videos to show, each with the label of its row."""
    if not videos.videos:
        raise DataError(f"{videos.root}: no video to show in {_part(videos)}")
    chosen: list[tuple[str, Video]] = []
    for number, name in enumerate(videos.classes):
        members = [video for video in videos.videos if video.label == number][:examples_per_class]
        chosen += [(name if position == 0 else "", video) for position, video in enumerate(members)]
    return chosen or [(video.path.stem, video) for video in videos.videos]


def _tile(frame: Picture) -> Picture:
    """Scale to the row's height, after cutting the sides of very wide frames."""
    height, width = frame.shape[:2]
    kept = min(width, round(height * WIDEST_TILE))
    left = (width - kept) // 2
    return resized(np.ascontiguousarray(frame[:, left : left + kept]), TILE_HEIGHT_PX)
