"""What the header and the first frame of a video file tell; packets are counted only where the header has no index."""

import contextlib
import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fima.data.decode.container import (
    check_end,
    frame_rate,
    open_video,
    pixel_aspect,
    ranked_streams,
    video_packets,
)
from fima.data.decode.frame_folder import FrameFolderReader
from fima.errors import VideoError

PROGRESSIVE_ORDERS = (0, 1)
MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """The header of one video."""

    num_frames: int
    """Frames that a decoder shows, as far as the header tells."""
    counted: bool
    """Whether packets had to be counted for that."""
    fps: float
    """Average frames per second; 0 where unknown."""
    width: int
    """Pixels, before any rotation."""
    height: int
    """Pixels, before any rotation."""
    pixel_aspect: float
    """Width of a pixel over its height, as players show it."""
    duration_seconds: float
    """Duration of the video stream; 0 where unknown."""
    codec: str
    """FFmpeg's name of the decoder."""
    pixel_format: str
    """FFmpeg's name, such as yuv420p."""
    rotation: int
    """Degrees clockwise by which a player turns the frames: 0, 90, 180 or 270."""
    interlaced: bool
    """Whether the stream says that its frames hold two fields each."""
    chosen: str
    """Which video stream is read where there are several, such as "2 of 2, 320x240"; else empty."""


def read_header(path: Path) -> VideoHeader:
    """Read the header of a video file and decode its first frame.

    Raises:
        VideoError: the file cannot be opened, has no video stream or no frame, its frames are not of the size
            that it states, or it ends before its last frame.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be entered
        return _of_folder(path)
    container, stream = open_video(path, probe=False)
    with container:
        width, height = stream.codec_context.width, stream.codec_context.height
        times = _listed_times(path, stream)
        counted = times is None
        first, read_times, num_packets = _first_frame(path, container, stream, to_the_end=counted)
        num_frames = num_packets if times is None else len(times)
        if (first.width, first.height) != (width, height):
            reason = f"its header says {width}x{height}, but its frames are {first.width}x{first.height}"
            raise VideoError(path, f"{reason}: `fima prepare` rewrites it")
        fps = frame_rate(stream, num_frames, read_times if times is None else times)
        context = stream.codec_context
        return VideoHeader(
            num_frames=num_frames,
            counted=counted,
            fps=fps,
            width=width,
            height=height,
            pixel_aspect=float(pixel_aspect(stream)),
            duration_seconds=_duration(container, stream, num_frames / fps if fps else 0.0, read_times),
            codec=context.name,
            pixel_format=first.format.name,
            rotation=-first.rotation % 360,
            interlaced=first.interlaced_frame or int(context.field_order) not in PROGRESSIVE_ORDERS,
            chosen=_chosen(container, stream),
        )


def _of_folder(path: Path) -> VideoHeader:
    """What a folder of pictures tells: neither rate nor duration."""
    with FrameFolderReader(path) as reader:
        return VideoHeader(
            num_frames=reader.num_frames,
            counted=False,
            fps=0.0,
            width=reader.width,
            height=reader.height,
            pixel_aspect=1.0,
            duration_seconds=0.0,
            codec="pictures",
            pixel_format=reader.pixel_format,
            rotation=0,
            interlaced=False,
            chosen="",
        )


def _listed_times(path: Path, stream: VideoStream) -> "array[int] | None":
    """Times at which the frames are decoded by the container's index; None where it has none of all frames."""
    times = array("q")
    end = 0
    for entry in stream.index_entries:
        end = max(end, entry.pos + entry.size)
        if entry.size > 0 and not entry.is_discard:
            times.append(entry.timestamp)
    check_end(path, end)
    return times if times and len(times) == stream.frames else None


def _first_frame(
    path: Path, container: InputContainer, stream: VideoStream, *, to_the_end: bool
) -> tuple[VideoFrame, "array[int]", int]:
    """The first frame, and of the packets that were read the times and the number of those that are shown."""
    num_indexed, num_packets, times = len(stream.index_entries), 0, array("q")
    frames: list[VideoFrame] = []
    for packet in video_packets(path, container, stream):
        if not packet.is_discard:
            num_packets += 1
            if packet.pts is not None:
                times.append(packet.pts)
        with contextlib.suppress(av.InvalidDataError):  # damage is for those to find who decode the whole file
            frames = frames or stream.codec_context.decode(packet)
        if frames and not to_the_end:
            break
    frames = frames or stream.codec_context.decode(None)
    # AVI announces dropped frames too, but they are not in its index; without a full one, frames are lost.
    if to_the_end and container.format.name == "avi" and num_indexed < num_packets < stream.frames:
        raise VideoError(path, f"truncated or damaged: {num_packets} of {stream.frames} frames can be read")
    if not frames:
        raise VideoError(path, "no frame")
    return frames[0], times, num_packets


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
