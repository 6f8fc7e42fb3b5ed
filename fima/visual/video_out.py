"""Video files for people, written frame by frame: H.264 in MP4, which every browser plays, or animated GIF."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from fima.data.decode.container import ffmpeg_name, rate_fraction
from fima.errors import ConfigError
from fima.files.atomic import written_whole
from fima.visual.overlay import Picture, resized

VideoFormat = Literal["mp4", "gif"]

ENCODERS = {"mp4": "libx264", "gif": "gif"}
OPTIONS = {"mp4": {"crf": "22", "preset": "veryfast"}, "gif": {}}
PIXELS = {"mp4": "yuv420p", "gif": "pal8"}
UNKNOWN_FPS = 25.0
GIF_FPS = 15.0
MOST_PX = 16_384
"""Larger pictures than this in width or height are too large for H.264, and are made smaller."""
NUM_COLOURS = 255
"""One less than GIF's 256: the encoder needs one for the pixels that stay as they were."""


def shown_fps(fps: float, kind: VideoFormat) -> tuple[float, int]:
    """Return the frame rate to write for a video of `fps` (0: unknown), and n: every n-th of its frames is taken."""
    known = fps if fps > 0 else UNKNOWN_FPS
    every = max(1, round(known / GIF_FPS)) if kind == "gif" else 1
    return known / every, every


@contextmanager
def video_writer(path: Path, fps: float) -> Iterator[Callable[[Picture], None]]:
    """Yield a function that appends a frame, uint8 (H, W, 3), all of one size; the file appears when it is whole.

    The file is `.mp4` or `.gif`; for MP4, the last row or column is doubled where the size is odd. Raises ConfigError
    where this installation of FFmpeg cannot write the format.
    """
    kind = path.suffix[1:]
    if ENCODERS[kind] not in av.codecs_available:
        raise ConfigError(f"--format {kind}: this PyAV has no encoder {ENCODERS[kind]}; take another")
    rate = rate_fraction(fps)
    container_options = {"movflags": "faststart"} if kind == "mp4" else {}
    with written_whole(path) as temporary, av.open(ffmpeg_name(temporary), "w", options=container_options) as container:
        stream = container.add_stream(ENCODERS[kind], rate=rate, options=OPTIONS[kind])
        assert isinstance(stream, VideoStream)
        times = itertools.count()

        def write(picture: Picture) -> None:
            if max(picture.shape) > MOST_PX:
                picture = resized(picture, picture.shape[0] * MOST_PX // max(picture.shape))
            frame = _with_even_sides(picture) if kind == "mp4" else _paletted(picture)
            frame.pts, frame.time_base = next(times), 1 / rate
            if not frame.pts:
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, PIXELS[kind]
            container.mux(stream.encode(frame))

        yield write
        if next(times):
            container.mux(stream.encode(None))


def _with_even_sides(picture: Picture) -> VideoFrame:
    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")


def _paletted(picture: Picture) -> VideoFrame:
    """A frame with the palette that suits it best."""
    quantised = Image.fromarray(picture).quantize(NUM_COLOURS)
    palette = np.full((256, 4), 255, dtype=np.uint8)
    colours = np.array(quantised.getpalette(), dtype=np.uint8).reshape(-1, 3)[:256]
    palette[: len(colours), 1:] = colours
    # PyAV's type stubs leave out that this format takes a pair.
    return VideoFrame.from_ndarray((np.asarray(quantised), palette), format="pal8")  # type: ignore[arg-type]
