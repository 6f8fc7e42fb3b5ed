"""Reading a folder of numbered pictures as a video, a frame a picture."""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from fima.data.decode.bitstream import JPEG_START, begins_with_whole_jpeg
from fima.data.decode.container import MAX_FRAME_PIXELS
from fima.data.decode.frame_series import frame_series
from fima.data.decode.video import DEFAULT_TIME_BASE, VideoReader
from fima.errors import VideoError


class FrameFolderReader(VideoReader):
    """Reads chosen frames of a folder of pictures; `VideoReader(folder)` is one.

    Frames are in the order of their numbers, of which some may be left out. Pictures do not say how many they are a
    second, so `fps` is 0. Raises VideoError where there are no numbered pictures, or the first cannot be decoded.
    """

    def __init__(self, path: Path, *, probe: bool = False) -> None:
        self.path = Path(path)
        try:
            names = frame_series(entry.name for entry in self.path.iterdir())
        except OSError as error:
            raise VideoError(self.path, f"cannot be read ({error.strerror})") from error
        if not names:
            raise VideoError(self.path, "a folder without numbered pictures, so not a video; name a video file")
        self._names = names
        self.num_frames = len(names)
        self.fps, self.time_base, self.pixel_aspect = 0.0, DEFAULT_TIME_BASE, Fraction(1)
        self._index = None
        self._reformatter = VideoReformatter()
        self.first = self._picture(0)
        self.width, self.height = self.first.width, self.first.height

    def close(self) -> None:
        """Does nothing: no file stays open."""

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames with their numbers. Raises VideoError where one cannot be decoded."""
        for index in wanted:
            yield index, self._picture(index)

    def _decode_in_order(self) -> Iterator[VideoFrame]:
        return map(self._picture, range(self.num_frames))

    def _picture(self, index: int) -> VideoFrame:
        name = self._names[index]
        try:
            content = (self.path / name).read_bytes()
            if content.startswith(JPEG_START) and not begins_with_whole_jpeg(content):
                raise VideoError(self.path, f"{name}: truncated")
            # The content: FFmpeg takes % and colons in the names of pictures for more than they are.
            with av.open(io.BytesIO(content), "r", metadata_errors="replace") as container:
                context = container.streams.video[0].codec_context
                if context.width * context.height > MAX_FRAME_PIXELS:
                    raise VideoError(self.path, f"{name}: more than {MAX_FRAME_PIXELS:,} pixels")
                return next(container.decode(video=0))
        except VideoError:
            raise
        except (OSError, ValueError, IndexError, StopIteration, av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or "no picture"
            raise VideoError(self.path, f"{name}: cannot be decoded ({reason})") from error
