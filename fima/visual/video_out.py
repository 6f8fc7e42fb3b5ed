"""Video files for people, written frame by frame: H.264 in MP4, which every browser plays, or animated GIF."""

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from fima.data.decode.container import ffmpeg_name
from fima.errors import ConfigError
from fima.visual.overlay import Picture

VideoFormat = Literal["mp4", "gif"]

ENCODERS = {"mp4": "libx264", "gif": "gif"}
OPTIONS = {"mp4": {"crf": "22", "preset": "veryfast"}, "gif": {}}
PIXELS = {"mp4": "yuv420p", "gif": "pal8"}
UNKNOWN_FPS = 25.0
GIF_FPS = 15.0
MAX_DENOMINATOR = 1001
"""Of frame rates such as 30000/1001."""
NUM_COLOURS = 255
"""One less than GIF's 256: the encoder needs one for the pixels that stay as they were."""


def shown_fps(fps: float, kind: VideoFormat) -> tuple[float, int]:
    """Return the frame rate to write for a video of `fps` (0: unknown), and n: every n-th of its frames is taken."""
    known = fps if fps > 0 else UNKNOWN_FPS
    every = max(1, round(known / GIF_FPS)) if kind == "gif" else 1
    return known / every, every


class VideoWriter:
    """Writes frames of one size; the file appears under its name when it is whole.

    Args:
        path: the file, `.mp4` or `.gif`.
        fps: frames per second.

    Raises:
        ConfigError: this installation of FFmpeg cannot write the format.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._kind = path.suffix[1:]
        if ENCODERS[self._kind] not in av.codecs_available:
            raise ConfigError(f"--format {self._kind}: this PyAV has no encoder {ENCODERS[self._kind]}; take another")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        options = {"movflags": "faststart"} if self._kind == "mp4" else {}
        self._container = av.open(ffmpeg_name(self._temporary), "w", options=options)
        self._rate = Fraction(fps).limit_denominator(MAX_DENOMINATOR)
        stream = self._container.add_stream(ENCODERS[self._kind], rate=self._rate, options=OPTIONS[self._kind])
        assert isinstance(stream, VideoStream)
        self._stream = stream
        self._count = 0

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._count:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, picture: Picture) -> None:
        """Append a frame, uint8 (H, W, 3); for MP4 the last row or column is doubled where the size is odd."""
        if self._kind == "mp4":
            height, width = picture.shape[:2]
            even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        else:
            frame = _paletted(picture)
        if not self._count:
            self._stream.width, self._stream.height = frame.width, frame.height
            self._stream.pix_fmt = PIXELS[self._kind]
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))


def _paletted(picture: Picture) -> VideoFrame:
    """A frame with the palette that suits it best."""
    quantised = Image.fromarray(picture).quantize(NUM_COLOURS)
    palette = np.full((256, 4), 255, dtype=np.uint8)
    colours = np.array(quantised.getpalette(), dtype=np.uint8).reshape(-1, 3)[:256]
    palette[: len(colours), 1:] = colours
    # PyAV's type stubs leave out that this format takes a pair.
    return VideoFrame.from_ndarray((np.asarray(quantised), palette), format="pal8")  # type: ignore[arg-type]
