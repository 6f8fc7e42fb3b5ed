"""Evenly spread clips for evaluation, centre-cropped or cut into three crops; nothing here is random."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fima.config import DataConfig, FinetuneConfig
from fima.config.checks import require, require_least
from fima.data.clips import FULL, PUBLISHED_STRIDE, ClipTiming, Window
from fima.data.decode.video import VideoReader
from fima.data.views import Crop, crop_and_resize

CENTRE_SHARE = 0.875

NumCrops = Literal[1, 3]
"""Square crops per clip: the centre, or three along the longer side."""


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How clips are cut out of videos."""

    frames: int
    """Frames F per clip; its window has twice as many instants."""
    crop_size: int
    """Side S of the square crops once they are scaled, in pixels."""
    num_clips: int = 10
    """Clips per video, evenly spread over it."""
    num_crops: NumCrops = 1
    """Square crops per clip: the centre, or three along the longer side; see `square_crops`."""
    ori_resolution: int | None = None
    """Source pixels that a crop's side is 0.875 of. None: 0.875 of each video's own short side."""
    stride: float = PUBLISHED_STRIDE
    """Source frames between neighbouring frames of a clip."""
    fps: float = 0.0
    """Frames per second of a clip, instead of `stride`; 0: by `stride`."""
    frame_rate: float = 0.0
    """Frames per second of videos that do not say theirs."""
    span: float = 0.0
    """Share of the video that a clip covers, instead of `stride`; 0: by `stride`."""

    def __post_init__(self) -> None:
        require_least(self, frames=1, crop_size=8, num_clips=1, ori_resolution=8)
        require(self.num_crops in (1, 3), "num_crops", self.num_crops, "choose 1 or 3")

    @classmethod
    def of(cls, data: DataConfig, *, num_clips: int = 10) -> "ClipSettings":
        """Clips as an encoder saw them in training; of a range of spans, the middle, so that clips differ."""
        same = {name: getattr(data, name) for name in ("frames", "crop_size", "stride", "fps", "frame_rate")}
        return cls(**same, num_clips=num_clips, span=0.0 if data.span is None else sum(data.span) / 2)

    @property
    def timing(self) -> ClipTiming:
        """How far apart the frames of a clip lie."""
        return ClipTiming(stride=self.stride, fps=self.fps, frame_rate=self.frame_rate, span=self.span)


def test_clips(config: FinetuneConfig) -> ClipSettings:
    """The clips that a classifier is tested on."""
    test = config.test
    clips = ClipSettings.of(config.data, num_clips=test.clips)
    return replace(clips, num_crops=test.crops, ori_resolution=test.ori_resolution)


def cut_clips(
    reader: VideoReader, window: Window, starts: Sequence[int], crops: Sequence[Crop], *, crop_size: int
) -> Tensor:
    """Cut clips out of an open video: every second instant of the windows that begin at `starts`.

    Returns uint8 (len(starts)·len(crops), 3, F, S, S), every crop scaled to side S; the crops of a clip follow one
    another. Raises VideoError where a frame cannot be decoded.
    """
    wanted = [window.indices(start)[FULL] for start in starts]
    distinct = sorted({i for clip in wanted for i in clip})
    pixels = reader.read(distinct)
    cropped = [crop_and_resize(pixels, crop, crop_size) for crop in crops]
    row = {i: position for position, i in enumerate(distinct)}
    return torch.stack([views[:, [row[i] for i in clip]] for clip in wanted for views in cropped])


def square_crops(
    frame_width: int, frame_height: int, num_crops: NumCrops = 1, ori_resolution: int | None = None
) -> list[Crop]:
    """Where the square crops of a frame lie.

        one crop                 three crops
        +--+-----+--+        +-----+--+--+-----+
        |  |     |  |        |  0  |  1  |  2  |     side = 0.875 of the short side, centred along it
        +--+-----+--+        +-----+--+--+-----+

    The side is 0.875 of the short side, or of `ori_resolution` source pixels, whatever the frame measures, and the
    whole short side where that is smaller. Three crops lie along the longer side; the middle one is the single crop.
    """
    short_side = min(frame_width, frame_height)
    side = max(1, min(short_side, round(CENTRE_SHARE * (ori_resolution or short_side))))
    room_x, room_y = frame_width - side, frame_height - side
    # Halves of the room along the longer side.
    steps = (0, 1, 2) if num_crops == 3 else (1,)
    is_tall = frame_height > frame_width
    places = [(room_x // 2, room_y * step // 2) if is_tall else (room_x * step // 2, room_y // 2) for step in steps]
    return [Crop(left=left, top=top, width=side, height=side, flipped=False) for left, top in places]
