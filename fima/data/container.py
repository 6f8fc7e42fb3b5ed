"""Opening one video file with PyAV, and reading its packets; every failure is a `VideoError`."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from fima.errors import VideoError

MAX_FRAME_PIXELS = 2**26
"""A larger frame is refused: one of them takes 200 MB as RGB, and a damaged header can announce any size."""


def open_video(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a file and its first video stream, to be decoded by one thread.

    Raises:
        VideoError: the file is missing, empty, no video, of an unknown codec, or its frames are too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "not a regular file")
        if status.st_size == 0:
            raise VideoError(path, "the file is empty")
        # An absolute path: FFmpeg takes what comes before a colon in others for a protocol.
        container = av.open(os.path.abspath(path), metadata_errors="replace")  # noqa: PTH100
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    try:
        return container, _video_stream(path, container)
    except VideoError:
        container.close()
        raise


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise VideoError(path, "no video stream")
    stream = container.streams.video[0]
    context = getattr(stream, "codec_context", None)
    if context is None:
        raise VideoError(path, "its codec is unknown")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise VideoError(path, f"frames of {context.width}x{context.height}, more than {MAX_FRAME_PIXELS:,} pixels")
    stream.thread_type = "NONE"
    context.thread_count = 1
    return stream


def video_packets(path: Path, container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """Read the packets of the video stream, in the order of the file.

    Raises:
        VideoError: a packet is incomplete, or the file cannot be read any further.
    """
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError(path, "truncated or damaged: a packet is incomplete")
            if packet.size:
                yield packet
    except av.FFmpegError as error:
        raise VideoError(path, f"cannot be read ({error.strerror})") from error
