"""Small pictures and videos that go into the page itself."""

import base64
import io
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fima.data.decode.video import VideoReader
from fima.errors import VideoError
from fima.visual.overlay import Picture, resized
from fima.visual.video_out import UNKNOWN_FPS, video_writer

THUMB_PX = 48
THUMBS_PER_ROW = 20
PREVIEW_SECONDS = 4.0
READ_AT_ONCE = 8

Moment = tuple[float, float]
"""From and to which second of a video."""


class MediaStore:
    """Videos of the page, each once with its first frame as a picture, up to a size in bytes as they are written.

    `contents` holds MP4 files in base 64, `posters` addresses of pictures, both by the name that the page knows.
    """

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes
        self._places: dict[str, str | None] = {}
        self.contents: dict[str, str] = {}
        self.posters: dict[str, str] = {}
        self.num_left_out = 0

    def add(self, key: str, frames: Iterable[Picture], fps: float) -> str | None:
        """Encode a video of frames, uint8 (H, W, 3) each, unless its key is stored already; `fps` is 0 where unknown.

        Returns the name that the page knows it by; None where the page would grow too large.
        """
        if key not in self._places:
            shown = list(frames)
            text, poster = _encoded(shown, fps or UNKNOWN_FPS), image_address(Image.fromarray(shown[0]))
            self._places[key] = None
            if len(text) + len(poster) <= self._left:
                self._places[key] = name = f"v{len(self.contents)}"
                self._left -= len(text) + len(poster)
                self.contents[name], self.posters[name] = text, poster
        if self._places[key] is None:
            self.num_left_out += 1
        return self._places[key]

    def add_preview(self, path: Path) -> str | None:
        """Add the middle seconds of a file, small; None also where it cannot be decoded."""
        try:
            frames, fps = excerpt(path, height=112, seconds=PREVIEW_SECONDS, max_fps=12.0)
        except VideoError:
            return None
        return self.add(f"preview {path}", frames, fps)


def _encoded(frames: Sequence[Picture], fps: float) -> str:
    """H.264 in MP4, in base 64."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        with video_writer(path, fps) as write:
            for frame in frames:
                write(frame)
        return base64.b64encode(path.read_bytes()).decode()


def excerpt(
    path: Path,
    *,
    height: int,
    seconds: float,
    max_fps: float = math.inf,
    moment: Moment | None = None,
    frame_rate: float = 0.0,
) -> tuple[list[Picture], float]:
    """Read some seconds of a file, scaled down on the way to (height, W, 3), and the rate of the frames; 0: unknown.

    They begin where a moment does, or lie in the middle of the video; every n-th frame is taken, for about `max_fps` a
    second. `frame_rate` is for files that do not state theirs; 0: unknown. VideoError where it cannot be decoded.
    """
    with VideoReader(path) as reader:
        rate = reader.fps or frame_rate
        known = rate or UNKNOWN_FPS
        most = max(1, round(seconds * known))
        if moment is None:
            count = min(reader.num_frames, most)
            start = (reader.num_frames - count) // 2
        else:
            start = min(reader.num_frames - 1, round(moment[0] * known))
            count = min(reader.num_frames - start, most, max(1, round(moment[1] * known) - start))
        every = max(1, round(rate / max_fps))
        wanted = range(start, start + count, every)
        frames: list[Picture] = []
        for position in range(0, len(wanted), READ_AT_ONCE):
            frames += [resized(frame, height) for frame in reader.read(wanted[position : position + READ_AT_ONCE])]
    return frames, rate / every


def sprite(paths: Sequence[Path]) -> str:
    """Return the middle frames of videos, squares of 48 px in rows of 20, as the address of an image in the page."""
    num_rows = -(-len(paths) // THUMBS_PER_ROW)
    sheet = Image.new("RGB", (THUMBS_PER_ROW * THUMB_PX, num_rows * THUMB_PX))
    for place, path in enumerate(paths):
        row, column = divmod(place, THUMBS_PER_ROW)
        sheet.paste(_thumb(path), (column * THUMB_PX, row * THUMB_PX))
    return image_address(sheet)


def _thumb(path: Path) -> Image.Image:
    try:
        with VideoReader(path) as reader:
            (frame,) = reader.read([reader.num_frames // 2])
    except VideoError:
        return Image.new("RGB", (THUMB_PX, THUMB_PX), "#a0a0a0")
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    square = np.ascontiguousarray(frame[top : top + side, left : left + side])
    return Image.fromarray(square).resize((THUMB_PX, THUMB_PX), Image.Resampling.BICUBIC)


def image_address(image: Image.Image) -> str:
    """Return an image as an address that holds it whole (WebP)."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
