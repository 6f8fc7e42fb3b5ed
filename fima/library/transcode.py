"""Rewriting one video so that random clips of it decode fast: small frames, frequent key frames, cheap to decode."""

import contextlib
import errno
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fima.data.decode.container import ffmpeg_name, rate_fraction
from fima.data.decode.orientation import orientation
from fima.data.decode.video import VideoReader
from fima.errors import VideoError

DEFAULT_FPS = 25.0
MOST_FPS = 1000
LONGEST_SIDE = 16384
"""Pixels; the encoder refuses more."""
PRESET, TUNE = "veryfast", "fastdecode"
TURNS = {90: ("clock",), 180: ("clock", "clock"), 270: ("cclock",)}
"""Filters that turn frames by so many degrees clockwise."""


@dataclass(frozen=True, kw_only=True)
class TranscodeSettings:
    """How videos are rewritten."""

    short_side: int = 256
    """Pixels of the short side; smaller videos keep their size."""
    gop: int = 16
    """Frames from one key frame to the next."""
    crf: int = 20
    """Quality of H.264: 20 is close to the source, 0 lossless, 51 the worst."""


def target_size(width: int, height: int, short_side: int, pixel_aspect: float = 1) -> tuple[int, int]:
    """Width and height, both even, with square pixels, and with the short side scaled down to `short_side` pixels.

    Nothing is scaled up to it, no side is longer than H.264 can be, and no frame gets more pixels than the source has.
    The aspect is the width of the source's pixels over their height; frames grow along the longer side of a pixel.
    """
    shown_width, shown_height = width * max(1, pixel_aspect), height / min(1, pixel_aspect)
    same_area = math.sqrt(min(pixel_aspect, 1 / pixel_aspect))
    most = min(short_side / min(shown_width, shown_height), LONGEST_SIDE / max(shown_width, shown_height))
    scale = min(same_area, most)
    return max(2, 2 * round(shown_width * scale / 2)), max(2, 2 * round(shown_height * scale / 2))


def transcode(source: Path, target: Path, settings: TranscodeSettings) -> int:
    """Write an MP4 with H.264 (8 bits, 4:2:0) that has the frames of `source`, without sound; return their number.

    Frames are mirrored and turned as players show them, pixels become square, fields of interlaced frames are joined;
    times of frames are kept where they rise, and begin at 0. Frame i of the result is frame i of the source. Raises
    VideoError where the source cannot be decoded to its end, or the result cannot be written or read again.
    """
    with VideoReader(source, probe=True) as reader:
        try:
            num_frames = _encode(reader, target, settings)
        except (av.FFmpegError, OSError) as error:
            reason = error.strerror if error.errno != errno.ENOSPC else "no space left on the disk"
            raise VideoError(source, f"cannot be rewritten ({reason or error})") from error
    with VideoReader(target) as result:
        if result.num_frames != num_frames:
            raise VideoError(source, f"cannot be rewritten: {num_frames} frames in, {result.num_frames} out")
    return num_frames


def _encode(reader: VideoReader, target: Path, settings: TranscodeSettings) -> int:
    """Number of frames that were written."""
    fps = rate_fraction(min(reader.fps or DEFAULT_FPS, MOST_FPS))
    options = {"preset": PRESET, "tune": TUNE, "crf": str(settings.crf)}
    stream: VideoStream | None = None
    num_frames = 0
    with av.open(ffmpeg_name(target), "w", options={"movflags": "faststart"}) as container:
        for frame in _filtered(_timed(reader, fps), reader, settings):
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options=options)
                context = stream.codec_context
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                context.gop_size, context.max_b_frames, context.thread_count = settings.gop, 0, 1
                context.time_base = reader.time_base
                context.colorspace, context.color_range = frame.colorspace, frame.color_range
                context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
            container.mux(stream.encode(frame))
            num_frames += 1
        if stream is not None:
            container.mux(stream.encode(None))
    return num_frames


def _timed(reader: VideoReader, fps: Fraction) -> Iterator[VideoFrame]:
    """The frames with times that begin at 0 and rise, evenly spaced where the file does not tell those of all.

    With packed B-frames, FFmpeg gives the times of neighbours in the wrong order.
    """
    is_even = reader.frame_times() is None
    gap = max(1, round(1 / (fps * reader.time_base)))
    first: int | None = None
    last = -gap
    for frame in reader.frames():
        if first is None:
            first = frame.pts or 0
        time = last + gap if is_even or frame.pts is None or frame.pts - first <= last else frame.pts - first
        frame.pts, frame.dts, frame.time_base = time, None, reader.time_base
        last = time
        yield frame


def _filtered(frames: Iterator[VideoFrame], reader: VideoReader, settings: TranscodeSettings) -> Iterator[VideoFrame]:
    """The frames turned, scaled and converted."""
    graph, deinterlaces = None, False
    for frame in frames:
        if graph is None or (frame.interlaced_frame and not deinterlaces):  # it may begin after the first frame
            yield from _pushed(graph, None)
            graph, deinterlaces = _graph(frame, reader, settings), frame.interlaced_frame
        yield from _pushed(graph, frame)
    yield from _pushed(graph, None)


def _pushed(graph: Graph | None, frame: VideoFrame | None) -> Iterator[VideoFrame]:
    """The frames that come out of a graph after another one went in, or at the end, None."""
    if graph is None:
        return
    graph.push(frame)
    with contextlib.suppress(BlockingIOError, EOFError):
        while True:
            made = graph.vpull()
            made.pict_type = 0  # the encoder would keep the source's key frames
            yield made


def _graph(frame: VideoFrame, reader: VideoReader, settings: TranscodeSettings) -> Graph:
    shown = orientation(frame)
    width, height = target_size(frame.width, frame.height, settings.short_side, float(reader.pixel_aspect))
    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=reader.time_base)]
    if frame.interlaced_frame:
        nodes.append(graph.add("yadif", "mode=send_frame:deint=interlaced"))
    nodes.append(graph.add("scale", f"{width}:{height}:flags=bicubic"))
    if shown.mirrored:
        nodes.append(graph.add("hflip"))
    nodes += [graph.add("transpose", turn) for turn in TURNS.get(shown.rotation, ())]
    nodes.append(graph.add("format", "yuv420p"))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph
