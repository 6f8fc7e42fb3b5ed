"""One picture that compares encoders: a column a video, with frames of its middle clip above a map an encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fima.data.clips import FrameCount, evenly_spread_starts, full_positions
from fima.data.datasets import Video, VideoList
from fima.data.eval_clips import ClipSettings, EvalClipsDataset
from fima.errors import DataError, VideoError
from fima.evaluate.activation import ViewEncoders, averaged_map
from fima.evaluate.cam import MaskLoader, clip_masks
from fima.visual.overlay import (
    Picture,
    in_a_column,
    in_a_row,
    label,
    labelled,
    outlined,
    overlay,
    resized,
    save_picture,
)

OUTLINE_COLOUR = (74, 222, 128)
TILE_PX = 144
NARROWEST_PX = 720
"""One video or two would leave the title and the legend little room."""
TITLE_PX, TITLE_FONT_PX = 32, 17
COLUMNS = 8
FRAME_NAMES = ("first frame", "last frame")
LEGEND = "maps: dark = lowest, bright = highest of the map"


def side_by_side(
    encoders: Mapping[str, ViewEncoders],
    videos: Sequence[Video],
    out: Path,
    settings: ClipSettings,
    *,
    device: torch.device,
    load_mask: MaskLoader | None = None,
    title: str = "Where the encoder responds",
) -> None:
    """Write a picture that compares encoders: a column a video, frames of its middle clip, then a map an encoder.

    Each map is stretched from its own minimum to its own maximum, over the clip's middle frame. The object's outline is
    that of this frame, where `load_mask` gives the mask (T, H, W) of a path. After eight videos, the columns begin anew
    below. `num_clips` of the settings is not used.

    Raises:
        DataError: no videos.
        VideoError: a video cannot be decoded.
    """
    if not videos:
        raise DataError("no video to show")
    single = replace(settings, num_clips=1, num_crops=1)
    rows: dict[str, list[Picture]] = {name: [] for name in (*FRAME_NAMES, *encoders)}
    for video in videos:
        clip = _middle_clip(video, single)
        frames = clip.permute(1, 2, 3, 0).numpy()
        middle = resized(frames[len(frames) // 2], TILE_PX)
        for name, frame in zip(FRAME_NAMES, (frames[0], frames[-1]), strict=True):
            rows[name].append(resized(frame, TILE_PX))
        for name, encoder in encoders.items():
            heat = averaged_map(encoder, clip[None].to(device))[0].cpu().numpy()
            tile = overlay(middle, heat)
            if load_mask is not None:
                tile = outlined(tile, _middle_mask(load_mask(video.path), single), OUTLINE_COLOUR)
            rows[name].append(tile)
    legend = LEGEND if load_mask is None else f"{LEGEND}; green: outline of the moving object"
    parts = [label(title, NARROWEST_PX, height=TITLE_PX, font_px=TITLE_FONT_PX)]
    for first in range(0, len(videos), COLUMNS):
        parts += [
            labelled(in_a_row(tiles[first : first + COLUMNS]), name, narrowest=NARROWEST_PX)
            for name, tiles in rows.items()
        ]
    save_picture(in_a_column([*parts, label(legend, NARROWEST_PX)]), out)


def _middle_clip(video: Video, settings: ClipSettings) -> Tensor:
    """The clip in the middle of a video, uint8 (3, F, S, S)."""
    videos = VideoList(videos=[video], classes=[], root=video.path.parent, split="all", layout="one video")
    batch = EvalClipsDataset(videos, settings)[0]
    if batch.skipped:
        raise VideoError(video.path, batch.skipped[0].reason)
    return batch.clips[0, 0]


def _middle_mask(mask: NDArray[np.bool_], settings: ClipSettings) -> NDArray[np.float32]:
    """The mask of the middle frame of a video's middle clip, (S, S) in [0, 1]."""
    num_frames = len(mask)
    window = settings.timing.window(FrameCount(num_frames), settings.frames)
    (start,) = evenly_spread_starts(num_frames, window.length, 1)
    middle = window.indices(start)[full_positions(settings.frames)][settings.frames // 2]
    still = replace(settings, frames=1)
    return np.asarray(clip_masks(mask[[middle]], still)[0].numpy(), dtype=np.float32)
