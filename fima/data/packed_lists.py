"""Long lists of videos without an object per video: worker processes share them instead of copying them bit by bit.

Python counts references inside its objects, so that a forked process that only reads a list of objects still writes to,
and thereby copies, the memory that they lie in. Arrays have one counter each.
"""

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

from fima.data.datasets import Video, VideoList

NO_LABEL = -1


def relative_name(path: Path, root: Path) -> str:
    """A file's name relative to a folder; as it is where it lies elsewhere."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


class PackedVideos(Sequence[Video]):
    """Reads like a list of videos, and makes each when it is asked for.

    Names of files lie one after another in one block of bytes, as the operating system writes them.
    """

    def __init__(self, videos: Iterable[Video]) -> None:
        content, self._ends, self._labels = bytearray(), array("q", [0]), array("i")
        for video in videos:
            content += os.fsencode(video.path)
            self._ends.append(len(content))
            self._labels.append(NO_LABEL if video.label is None else video.label)
        self._content = bytes(content)

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> Video: ...
    @overload
    def __getitem__(self, index: slice) -> list[Video]: ...
    def __getitem__(self, index: int | slice) -> Video | list[Video]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        name = os.fsdecode(self._content[self._ends[place] : self._ends[place + 1]])
        label = self._labels[place]
        return Video(Path(name), None if label == NO_LABEL else label)


def packed(videos: VideoList) -> VideoList:
    """The list without an object per video."""
    return replace(videos, videos=PackedVideos(videos.videos))
