"""How players turn the frames of a video, and whether they mirror them."""

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame

UNNAMED_TYPES = range(28, 48)
"""FFmpeg's numbers of the kinds of side data, present and to come, that PyAV 18 has no name for."""


@dataclass(frozen=True)
class Orientation:
    """What a display matrix does to frames: it mirrors them left to right, or not, and then turns them."""

    mirrored: bool
    rotation: int
    """Degrees clockwise."""


def orientation(frame: VideoFrame) -> Orientation:
    """How a frame is to be shown, by the display matrix of its file or its stream, or the EXIF data of a JPEG.

    The matrix takes a place (x, y), y downwards, to (a·x + c·y, b·x + d·y), up to scale. FFmpeg's own angle, that of
    `frame.rotation`, is wrong by half a turn where a matrix mirrors left to right, and 0 where it does upside down.
    """
    matrix = _side_data(frame).get(Type.DISPLAYMATRIX)
    if matrix is None:
        return Orientation(mirrored=False, rotation=0)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    mirrored = a * d < b * c
    side = -1 if mirrored else 1
    return Orientation(mirrored, round(math.degrees(math.atan2(side * b, side * a))) % 360)


def _side_data(frame: VideoFrame) -> SideDataContainer:
    """What a frame has besides its pixels, of the kinds that PyAV knows."""
    try:
        return cast(SideDataContainer, frame.side_data)  # PyAV's types call it an entry
    except ValueError:  # of other kinds, such as EXIF, PyAV lists nothing: FFmpeg leaves them out
        graph = Graph()
        time_base = frame.time_base or Fraction(1)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
        without = (graph.add("sidedata", f"mode=delete:type={kind}") for kind in UNNAMED_TYPES)
        graph.link_nodes(source, *without, graph.add("buffersink")).configure()
        graph.push(frame)
        return cast(SideDataContainer, graph.vpull().side_data)
