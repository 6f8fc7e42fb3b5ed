"""Small pictures and videos that go into the page itself."""

import base64
import io
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
PREVIEW_HEIGHT_PX = 112
PREVIEW_SECONDS = 4.0
PREVIEW_FPS = 12.0
READ_AT_ONCE = 8
UNREADABLE_GREY = 160


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
        """Encode a video of frames, uint8 (H, W, 3) each, unless its key is stored already.

        Returns the name that the page knows it by; None where the page would grow too large.
        """
        if key not in self._places:
            shown = list(frames)
            text, poster = _encoded(shown, fps), image_address(Image.fromarray(shown[0]))
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
            frames, fps = middle_frames(path, height=PREVIEW_HEIGHT_PX, max_fps=PREVIEW_FPS)
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


def middle_frames(path: Path, *, height: int, max_fps: float | None = None) -> tuple[list[Picture], float]:
    """Read the middle four seconds of a file, scaled down on the way to (height, W, 3), and the rate of the frames.

    Every n-th frame is taken, so that they are about `max_fps` a second.

    Raises:
        VideoError: it cannot be decoded.
    """
    with VideoReader(path) as reader:
        known = reader.fps if reader.fps > 0 else UNKNOWN_FPS
        every = 1 if max_fps is None else max(1, round(known / max_fps))
        count = min(reader.num_frames, max(1, round(PREVIEW_SECONDS * known)))
        start = (reader.num_frames - count) // 2
        wanted = list(range(start, start + count, every))
        frames = []
        for position in range(0, len(wanted), READ_AT_ONCE):
            frames += [resized(frame, height) for frame in reader.read(wanted[position : position + READ_AT_ONCE])]
    return frames, known / every


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
        return Image.new("RGB", (THUMB_PX, THUMB_PX), (UNREADABLE_GREY,) * 3)
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    square = np.ascontiguousarray(frame[top : top + side, left : left + side])
    return Image.fromarray(square).resize((THUMB_PX, THUMB_PX), Image.Resampling.BICUBIC)


def image_address(image: Image.Image) -> str:
    """Return an image as an address that holds it whole (WebP)."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
