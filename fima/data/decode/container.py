"""Opening one video file with PyAV, and reading its packets; every failure is a `VideoError`."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from fima.data.decode.sps import frame_format
from fima.errors import VideoError

MP4_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2"
FORMATS = {".avi": "avi"} | dict.fromkeys((".m4v", ".mov", ".mp4"), MP4_FORMAT)
"""FFmpeg's names of formats by the ending of a file. To try that one alone saves a third of the time of opening."""
WITHOUT_DECODING = {"codec_whitelist": "none", "probesize": "4096"}
"""FFmpeg decodes the first picture of a file to learn its pixel format. Where no codec is allowed it does not."""
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
        container = _opened(path)
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    try:
        return container, _video_stream(path, container)
    except VideoError:
        container.close()
        raise


def _opened(path: Path) -> InputContainer:
    """The file, opened without decoding where its header tells all that decoding would; H.264 in MP4 as a rule."""
    # An absolute path: FFmpeg takes what comes before a colon in others for a protocol.
    name = os.path.abspath(path)  # noqa: PTH100
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        return av.open(name, metadata_errors="replace")
    try:
        if kind == MP4_FORMAT:
            container = av.open(name, metadata_errors="replace", format=kind, options=WITHOUT_DECODING)
            if _is_complete(container):
                return container
            container.close()
        return av.open(name, metadata_errors="replace", format=kind)
    except av.FFmpegError:
        return av.open(name, metadata_errors="replace")  # it may be of another format than its name says


def _is_complete(container: InputContainer) -> bool:
    """Whether container and stream tell the same of the frames; notes their pixel format."""
    context = container.streams.video[0].codec_context if container.streams.video else None
    if container.format.name != MP4_FORMAT or context is None or context.name != "h264" or not context.extradata:
        return False
    found = frame_format(context.extradata)
    if found is None or (found.width, found.height) != (context.width, context.height):
        return False
    stated_range = int(context.color_range)
    if stated_range not in (ColorRange.UNSPECIFIED, ColorRange.JPEG if found.full_range else ColorRange.MPEG):
        return False
    context.pix_fmt = "yuvj420p" if found.full_range else "yuv420p"
    return True


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise VideoError(path, "no video stream")
    stream = container.streams.video[0]
    context = getattr(stream, "codec_context", None)
    if context is None:
        raise VideoError(path, "its codec is unknown")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise VideoError(path, f"frames of {context.width}x{context.height}, more than {MAX_FRAME_PIXELS:,} pixels")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all  # the sound is a quarter of what reading a small file takes
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


def check_end(path: Path, end: int) -> None:
    """Compare the size of a file with the byte at which its last packet ends by its index. Raises VideoError."""
    size = path.stat().st_size
    if end > size:
        raise VideoError(path, f"truncated: {size:,} bytes, but its index goes to byte {end:,}")
