"""Opening one video file with PyAV, and reading its packets; every failure is a `VideoError`."""

import math
import os
import stat
from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from fima.data.decode.bitstream import is_whole_jpeg
from fima.errors import VideoError

MP4_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2"
TRANSPORT_STREAM = "mpegts"
GIF_FORMAT, JPEGS_FORMAT = "gif", "mjpeg"
LISTS = ("concat", "hls", "dash", "sdp")
"""Formats that name other files or addresses: of a stranger's file, these are not opened."""
GIF_TRAILER = b"\0;"
TAIL_BYTES = 2**20
FORMATS = {".avi": "avi"} | dict.fromkeys((".m4v", ".mov", ".mp4"), MP4_FORMAT)
"""FFmpeg's names of formats by the ending of a file. To try that one alone saves a third of the time of opening."""
WITHOUT_DECODING = {"codec_whitelist": "none", "probesize": "4096"}
"""FFmpeg decodes pictures of a file while it opens it. Where no codec is allowed it does not."""
MAX_FRAME_PIXELS = 2**26
"""A larger frame is refused: one of them takes 200 MB as RGB, and a damaged header can announce any size."""
PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
INCOMPLETE = "truncated or damaged: a packet is incomplete"
NO_END = "truncated: its last picture has no end"
PROGRESSIVE = 1
"""FFmpeg's number of the order of fields in pictures that have none."""
RATE_TOLERANCE = 0.1
MAX_DENOMINATOR = 1001
EXTREME_ASPECT = 8
"""Pixels that are said to be longer than this, or higher, are square: the header is damaged."""


def ffmpeg_name(path: Path) -> str:
    """A file's name for FFmpeg, which takes what comes before a colon in a relative one for a protocol."""
    return os.path.abspath(path)  # noqa: PTH100 - links stay


def open_video(path: Path, *, probe: bool = True) -> tuple[InputContainer, VideoStream]:
    """Open a file and its video stream, to be decoded by one thread.

    `probe` lets FFmpeg decode the first pictures, so that size and pixel format are those of the frames; without it
    H.264 in MP4 opens several times as fast, and the container's word is taken for the size. Raises VideoError where
    the file is missing, empty, no video, of an unknown codec or a list of other files, or its frames are too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "not a regular file")
        if status.st_size == 0:
            raise VideoError(path, "the file is empty")
        container = _opened(path, probe)
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    try:
        if container.format.name in LISTS:
            raise VideoError(path, "a list of other files, not a video")
        stream = _prepared_stream(path, container)
        if container.format.name == TRANSPORT_STREAM:
            _check_first_packet(path, stream.index)
        if container.format.name in (GIF_FORMAT, JPEGS_FORMAT):
            _check_tail(path, container.format.name)
        return container, stream
    except VideoError:
        container.close()
        raise


def _opened(path: Path, probe: bool) -> InputContainer:
    name, kind = ffmpeg_name(path), FORMATS.get(path.suffix.lower())
    if kind is None:
        return av.open(name, metadata_errors="replace")
    try:
        if kind == MP4_FORMAT and not probe:
            with av.logging.Capture():  # that no codec is allowed is no news where another library lets FFmpeg speak
                container = av.open(name, metadata_errors="replace", format=kind, options=WITHOUT_DECODING)
            best = next(iter(ranked_streams(container)), None)
            # Of other codecs the container does not tell how far pictures are out of order.
            if best is not None and best.codec_context is not None and best.codec_context.name == "h264":
                return container
            container.close()
        return av.open(name, metadata_errors="replace", format=kind)
    except av.FFmpegError:
        return av.open(name, metadata_errors="replace")  # it may be of another format than its name says


def ranked_streams(container: InputContainer) -> list[VideoStream]:
    """The video streams but for attached pictures: those marked as default first, then the larger ones.

    Before that, a stream that can be decoded comes before one that cannot, and a moving one before a single picture.
    """

    def rank(stream: VideoStream) -> tuple[bool, bool, bool, int]:
        context = stream.codec_context
        known = context is not None
        area = context.width * context.height if known else 0
        return known, stream.frames != 1, bool(stream.disposition & Disposition.default), area

    videos = [stream for stream in container.streams.video if not stream.disposition & PICTURES]
    return videos if len(videos) == 1 else sorted(videos, key=rank, reverse=True)


def _prepared_stream(path: Path, container: InputContainer) -> VideoStream:
    videos = ranked_streams(container)
    if not videos:
        raise VideoError(path, "no video stream" + (", but an attached picture" if container.streams.video else ""))
    stream, context = videos[0], videos[0].codec_context
    if context is None:
        raise VideoError(path, "its codec is unknown")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise VideoError(path, f"frames of {context.width}x{context.height}, more than {MAX_FRAME_PIXELS:,} pixels")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all  # the sound is a quarter of what reading a small file takes
    stream.thread_type = "NONE"
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return stream


def video_packets(path: Path, container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """Read the packets of the video stream in the order of the file. Raises VideoError where one cannot be read.

    Where transport streams were put together, the counter by which FFmpeg notices a loss begins anew, as their times
    do, and it marks the last packet before as incomplete. A stream is let begin there with a key frame that is shown
    first: what is shown before would be decoded from frames of the other.
    """
    marked = doubted = False
    begin, last = -math.inf, 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt and container.format.name != TRANSPORT_STREAM:
                raise VideoError(path, INCOMPLETE)
            if packet.dts is not None:
                shown = packet.dts if packet.pts is None else packet.pts
                if (doubted or shown < begin) and not (packet.is_keyframe and packet.dts < last):
                    raise VideoError(path, INCOMPLETE)
                begin, doubted, last = (shown if doubted else begin), False, packet.dts
            # FFmpeg's parser gives the mark of a packet to the picture before it.
            doubted, marked = doubted or marked, packet.is_corrupt
            if packet.size:
                yield packet
        if doubted or marked:
            raise VideoError(path, INCOMPLETE)
    except av.FFmpegError as error:
        raise VideoError(path, f"cannot be read ({error.strerror})") from error


def _check_first_packet(path: Path, index: int) -> None:
    """Refuse a transport stream whose video stream, of this index, has lost a part of its first packet.

    FFmpeg's parser, which cuts such streams into frames, gives the mark of an incomplete packet to the frame before it:
    that of the first packet is lost.
    """
    with av.open(ffmpeg_name(path), options={"fflags": "noparse"}) as container:
        if len(container.streams) > index and next(container.demux(container.streams[index])).is_corrupt:
            raise VideoError(path, INCOMPLETE)


def _check_tail(path: Path, kind: str) -> None:
    """Refuse pictures in a row whose last one is cut off: FFmpeg makes up what is missing, without a word."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read()
    if not (tail.rstrip(b"\0").endswith(GIF_TRAILER) if kind == GIF_FORMAT else is_whole_jpeg(tail)):
        raise VideoError(path, NO_END)


def listed_frames(path: Path, container: InputContainer, stream: VideoStream) -> "tuple[array[int], array[int]] | None":
    """When the frames are decoded, and which are key frames, by the container's index; None where it has not all.

    Raises VideoError where the file ends before the last packet of the index.
    """
    times, keys = array("q"), array("q")
    end = 0
    for entry in stream.index_entries:
        size = entry.size
        if (reaches := entry.pos + size) > end:
            end = reaches
        if size > 0 and not entry.is_discard:
            if entry.is_keyframe:
                keys.append(len(times))
            times.append(entry.timestamp)
    if end > container.size:
        raise VideoError(path, f"truncated: {container.size:,} bytes, but its index goes to byte {end:,}")
    return (times, keys) if times and len(times) == stream.frames else None


def frame_rate(stream: VideoStream, num_frames: int, times: Sequence[int]) -> float:
    """Frames per second on average: what the container says where the times of the frames agree with it, else theirs.

    Times are of those frames that have one, in any order, in the stream's time base. The rate is 0 where neither tells.
    """
    stated = float(stream.average_rate or 0)
    time_base = stream.time_base or Fraction()
    span = (max(times) - min(times)) * time_base if len(times) > 1 else Fraction()
    if span <= 0:
        return stated

    def by_times(num_times: int, span: Fraction) -> float:
        # In fractions: a rate a little below 25 would have 100 frames last longer than four seconds.
        return float(Fraction((num_times - 1) * num_frames, len(times)) / span)

    def is_stated(rate: float) -> bool:
        return abs(stated - rate) <= RATE_TOLERANCE * rate

    measured = by_times(len(times), span)
    if is_stated(measured) or is_stated(by_times(len(set(times)), span)):
        return stated  # of recordings put together, each may begin at time 0
    # Or anywhere.
    begins = [place for place, (time, following) in enumerate(pairwise(times), 1) if following < time - 1 / time_base]
    parts = [times[begin:end] for begin, end in pairwise([0, *begins, len(times)])]
    spans = sum(max(part) - min(part) for part in parts) * time_base
    return stated if spans and is_stated(by_times(len(times) - len(begins), spans)) else measured


def rate_fraction(fps: float) -> Fraction:
    """A frame rate above 0 as containers take it, such as 30000/1001; a very low one as one frame in n seconds."""
    return Fraction(fps).limit_denominator(MAX_DENOMINATOR) or Fraction(1, round(1 / fps))


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height, as players show it; 1 where the file does not tell."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return aspect if Fraction(1, EXTREME_ASPECT) <= aspect <= EXTREME_ASPECT else Fraction(1)
