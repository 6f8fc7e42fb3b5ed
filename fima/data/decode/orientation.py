"""How players turn the frames of a video, and whether they mirror them."""

import math
import struct
from dataclasses import dataclass
from typing import cast

from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Orientation:
    """What a display matrix does to frames: it mirrors them left to right, or not, and then turns them."""

    mirrored: bool
    rotation: int
    """Degrees clockwise."""


def orientation(frame: VideoFrame) -> Orientation:
    """How a frame is to be shown, by the display matrix of its file or its stream.

    The matrix takes a place (x, y), y downwards, to (a·x + c·y, b·x + d·y), up to scale. FFmpeg's own angle, that of
    `frame.rotation`, is wrong by half a turn where a matrix mirrors left to right, and 0 where it does upside down.
    """
    matrix = cast(SideDataContainer, frame.side_data).get(Type.DISPLAYMATRIX)  # PyAV's types call it an entry
    if matrix is None:
        return Orientation(mirrored=False, rotation=0)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    mirrored = a * d < b * c
    side = -1 if mirrored else 1
    return Orientation(mirrored, round(math.degrees(math.atan2(side * b, side * a))) % 360)
