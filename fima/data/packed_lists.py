"""Long lists of videos without an object per video: worker processes share them instead of copying them bit by bit.

Python counts references inside its objects, so that a forked process that only reads a list of objects still writes to,
and thereby copies, the memory that they lie in. Arrays have one counter each.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from fima.data.datasets import Video, VideoList

NO_LABEL = -1


def relative_name(path: Path, root: Path) -> str:
    """A file's name relative to a folder; as it is where it lies elsewhere."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


class PathTable(Sequence[str]):
    """File names, as the operating system writes them, in one block of bytes."""

    def __init__(self, names: Iterable[bytes]) -> None:
        content = bytearray()
        ends = [0]
        for name in names:
            content += name
            ends.append(len(content))
        self._content: npt.NDArray[np.uint8] = np.frombuffer(bytes(content), dtype=np.uint8)
        self._ends: npt.NDArray[np.int64] = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return os.fsdecode(self._content[self._ends[place] : self._ends[place + 1]].tobytes())


class PackedVideos(Sequence[Video]):
    """Reads like a list of videos, and makes each when it is asked for."""

    def __init__(self, videos: Iterable[Video]) -> None:
        labels: list[int] = []

        def names() -> Iterable[bytes]:
            for video in videos:
                labels.append(NO_LABEL if video.label is None else video.label)
                yield os.fsencode(video.path)

        self._paths = PathTable(names())
        self._labels: npt.NDArray[np.int32] = np.array(labels, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> Video: ...
    @overload
    def __getitem__(self, index: slice) -> list[Video]: ...
    def __getitem__(self, index: int | slice) -> Video | list[Video]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        label = int(self._labels[index])
        return Video(Path(self._paths[index]), None if label == NO_LABEL else label)


def packed(videos: VideoList) -> VideoList:
    """The list without an object per video."""
    return replace(videos, videos=PackedVideos(videos.videos))
