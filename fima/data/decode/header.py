"""What the header and the first frame of a video file tell; packets are counted only where the header has no index.

Of the first frame, pixels are decoded only where its codec has no other way to say how it is turned, and whether it has
two fields: docs/data.md.
"""

import math
import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fima.data.decode.bitstream import h264_length_bytes, h264_picture_header
from fima.data.decode.container import (
    PROGRESSIVE,
    frame_rate,
    listed_frames,
    open_video,
    pixel_aspect,
    ranked_streams,
    video_packets,
)
from fima.data.decode.frame_folder import FrameFolderReader
from fima.data.decode.orientation import orientation
from fima.errors import VideoError

UNKNOWN_ORDER = 0
HDR_CURVES = {16: "PQ", 18: "HLG"}
"""By FFmpeg's number of a transfer characteristic (ITU-T H.273)."""
WITHOUT_PIXELS = {"ec": "0"}
"""The decoder does not conceal what is missing in a picture."""
MATROSKA_FORMAT = "matroska,webm"
MATROSKA_START_BYTES = 2**14
MATROSKA_TRACKS, MATROSKA_PROJECTION, MATROSKA_CLUSTER = b"\x16\x54\xae\x6b", b"\x76\x70", b"\x1f\x43\xb6\x75"
"""Ids of elements (RFC 9559): the tracks, what can turn one, and where the packets begin."""
NEVER_INTERLACED = frozenset({"av1", "libdav1d", "libvpx", "libvpx-vp9", "vp8", "vp9"})
MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """The header of one video."""

    num_frames: int
    """Frames that a decoder shows, as far as the header tells."""
    counted: bool = False
    """Whether packets had to be counted for that."""
    fps: float = 0.0
    """Average frames per second; 0 where unknown."""
    width: int
    """Pixels, before any rotation."""
    height: int
    """Pixels, before any rotation."""
    pixel_aspect: float = 1.0
    """Width of a pixel over its height, as players show it."""
    duration_seconds: float = 0.0
    """Duration of the video stream; 0 where unknown."""
    codec: str
    """FFmpeg's name of the decoder."""
    pixel_format: str
    """FFmpeg's name, such as yuv420p."""
    rotation: int = 0
    """Degrees clockwise by which a player turns the frames: 0, 90, 180 or 270."""
    mirrored: bool = False
    """Whether a player mirrors the frames left to right before it turns them."""
    interlaced: bool = False
    """Whether the stream says that its frames hold two fields each."""
    hdr: str = ""
    """PQ or HLG, the curve by which HDR is stored; else empty."""
    chosen: str = ""
    """Which video stream is read where there are several, such as "2 of 2, 320x240"; else empty."""


def read_header(path: Path) -> VideoHeader:
    """Read the header of a video file, and what its first frame tells.

    Raises VideoError where it cannot be opened, has no video stream or no frame, or not the size or the frames that it
    states.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be entered
        return _of_folder(path)
    container, stream = open_video(path, probe=False)
    with container:
        context = stream.codec_context
        context.options = {**context.options, **WITHOUT_PIXELS}
        width, height = context.width, context.height
        listed = listed_frames(path, container, stream)
        header, times = _first_frame(path, container, stream, None if listed is None else len(listed[0]))
        if (header.width, header.height) != (width, height):
            reason = f"its header says {width}x{height}, but its frames are {header.width}x{header.height}"
            raise VideoError(path, f"{reason}: `fima prepare` rewrites it")
        fps = frame_rate(stream, header.num_frames, times if listed is None else listed[0])
        return replace(
            header,
            counted=listed is None,
            fps=fps,
            pixel_aspect=float(pixel_aspect(stream)),
            duration_seconds=_duration(container, stream, header.num_frames / fps if fps else 0.0, times),
            interlaced=header.interlaced or int(context.field_order) not in (UNKNOWN_ORDER, PROGRESSIVE),
            hdr=HDR_CURVES.get(int(context.color_trc), ""),
            chosen=_chosen(container, stream),
        )


def _of_folder(path: Path) -> VideoHeader:
    """What a folder of pictures tells: neither rate nor duration."""
    with FrameFolderReader(path) as reader:
        return replace(_of_frame(reader.first, "pictures"), num_frames=reader.num_frames, interlaced=False)


def _of_frame(frame: VideoFrame, codec: str) -> VideoHeader:
    """What a frame tells besides its pixels, of a video whose number of frames is not known yet."""
    return VideoHeader(
        num_frames=0,
        width=frame.width,
        height=frame.height,
        codec=codec,
        pixel_format=frame.format.name,
        interlaced=frame.interlaced_frame,
        **vars(orientation(frame)),
    )


def _known(path: Path, container: InputContainer, context: VideoCodecContext) -> VideoHeader | None:
    """What the first frame would tell, without decoding it: what FFmpeg has seen while it opened WebM or Matroska.

    None where the video may be turned, or the codec may have fields.
    """
    if container.format.name != MATROSKA_FORMAT or context.name not in NEVER_INTERLACED or context.pix_fmt is None:
        return None
    with path.open("rb") as file:
        start = file.read(MATROSKA_START_BYTES).partition(MATROSKA_CLUSTER)[0]
    if MATROSKA_TRACKS not in start or MATROSKA_PROJECTION in start:
        return None
    return VideoHeader(
        num_frames=0, width=context.width, height=context.height, codec=context.name, pixel_format=context.pix_fmt
    )


def _first_frame(
    path: Path, container: InputContainer, stream: VideoStream, num_listed: int | None
) -> tuple[VideoHeader, "array[int]"]:
    """Read packets up to the first that gives a frame, or, where the header does not list them, to the end.

    Returns what the frame tells, with the number of all, and the times of the packets that were read.
    """
    num_indexed, num_packets, times = len(stream.index_entries), 0, array("q")
    found, packets_per_frame = _known(path, container, stream.codec_context), 1
    last: list[Packet[VideoStream]] = []
    for packet in video_packets(path, container, stream):
        if not packet.is_discard:
            num_packets += 1
            if packet.pts is not None:
                times.append(packet.pts)
        if not found:
            found = _decoded(stream.codec_context, packet)
            if not found and last and (found := _of_packets(stream.codec_context, [*last, packet])):
                packets_per_frame = 2
            last = [packet]
        if found and num_listed is not None:
            break
    # AVI announces dropped frames too, but they are not in its index; without a full one, frames are lost.
    if num_listed is None and container.format.name == "avi" and num_indexed < num_packets < stream.frames:
        raise VideoError(path, f"truncated or damaged: {num_packets} of {stream.frames} frames can be read")
    num_frames = math.ceil((num_listed or num_packets) / packets_per_frame)
    if not found or not num_frames:
        raise VideoError(path, "no frame")
    return replace(found, num_frames=num_frames), times


def _decoded(context: VideoCodecContext, packet: "Packet[VideoStream]") -> VideoHeader | None:
    """What the frame of a packet tells; the decoder has to give it at once, and where it can, without its pixels."""
    length_bytes = h264_length_bytes(context.name, context.extradata)
    if length_bytes is not None:
        head = Packet(h264_picture_header(bytes(packet), length_bytes))
        if found := _of_packets(context, [head]):
            return found
    return _of_packets(context, [packet])  # of two fields, the head has one only


def _of_packets(context: VideoCodecContext, packets: Iterable["Packet[Any]"]) -> VideoHeader | None:
    """What the first frame of some packets tells; None where they give none."""
    frames: list[VideoFrame] = []
    try:
        for packet in (*packets, None):
            frames = frames or context.decode(packet)
    except av.FFmpegError:  # damage is for those to find who decode the whole file
        return None
    finally:
        context.flush_buffers()
    return _of_frame(frames[0], context.name) if frames else None


def _duration(container: InputContainer, stream: VideoStream, seconds: float, times: "array[int]") -> float:
    """Seconds that the header states for the stream, or else for the whole; `seconds`, of the frames, where neither."""
    time_base = float(stream.time_base or 0)
    if stream.duration is not None and stream.time_base is not None:
        stated = stream.duration * time_base
    else:
        stated = container.duration / MICROSECONDS if container.duration else seconds
    # Some formats state when the last frame ends, others how long the frames last.
    start = min(times, default=0) * time_base
    return min(stated, stated - start, key=lambda value: abs(value - seconds))


def _chosen(container: InputContainer, stream: VideoStream) -> str:
    """The stream in words, where there is a choice."""
    streams = sorted(ranked_streams(container), key=lambda other: other.index)
    if len(streams) == 1:
        return ""
    place = [other.index for other in streams].index(stream.index)
    return f"{place + 1} of {len(streams)}, {stream.codec_context.width}x{stream.codec_context.height}"
