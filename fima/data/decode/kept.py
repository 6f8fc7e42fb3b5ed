"""Decoded videos in memory, for sets that are small and devices that are faster than decoding."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fima.data.clips import FrameCount
from fima.data.decode.video import VideoReader
from fima.errors import VideoError

LONG_FRAMES = 20_000
"""Videos of so many frames or more, over ten minutes, stay open: reading their index takes longer than a sample."""
MOST_LEFT_OPEN = 4


@dataclass(frozen=True, kw_only=True)
class KeptVideo(FrameCount):
    """What samples need of a video, from memory; as `VideoReader`."""

    frames: npt.NDArray[np.uint8]
    """All of it, RGB (num_frames, H, W, 3)."""
    height: int
    width: int

    def read(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The frames with the given numbers, uint8 (len(indices), H, W, 3)."""
        frames: npt.NDArray[np.uint8] = self.frames[np.asarray(indices)]
        return frames


class VideoStore:
    """Opens videos, and keeps those that it has room for: so many megabytes of decoded frames in this process."""

    def __init__(self, megabytes: int) -> None:
        self._room = megabytes * 2**20
        self._kept: dict[Path, KeptVideo] = {}
        self._long: dict[Path, VideoReader] = {}

    def open(self, path: Path) -> AbstractContextManager[VideoReader | KeptVideo]:
        """A video, to be used in a `with` statement. Raises VideoError as `VideoReader`."""
        if path in self._kept:
            return nullcontext(self._kept[path])
        reader = self._long.pop(path, None) or VideoReader(path)
        if reader.num_frames >= LONG_FRAMES:
            return self._left_open(reader)
        size = 3 * reader.num_frames * reader.height * reader.width
        if size > self._room:
            return reader
        with reader:
            try:
                frames = reader.read(range(reader.num_frames))
            except VideoError:
                # What a sample wants of it may be whole. Without room it would be used, so it is with room.
                return VideoReader(path)
            kept = KeptVideo(
                path=path,
                frames=frames,
                num_frames=reader.num_frames,
                height=reader.height,
                width=reader.width,
                fps=reader.fps,
                times=reader.frame_times(),
            )
        self._room -= size
        self._kept[path] = kept
        return nullcontext(kept)

    @contextmanager
    def _left_open(self, reader: VideoReader) -> Iterator[VideoReader]:
        """A long video, which stays open for its next sample unless something goes wrong with it."""
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        self._long[reader.path] = reader
        if len(self._long) > MOST_LEFT_OPEN:
            self._long.pop(next(iter(self._long))).close()
