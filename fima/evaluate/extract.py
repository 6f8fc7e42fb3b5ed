"""What a network makes of the clips of videos, decoded while it computes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fima.data.decode.limits import DecodeLimits
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.data.workers.crash_guard import Guard
from fima.evaluate.windows import WindowChunk, WindowDataset

CHUNKS_AHEAD = 4
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the work may take; the results depend on it in the last digits at most."""

    device: torch.device = CPU
    """Where the network is."""
    batch_size: int = 32
    """Clips at a time."""
    workers: int = 0
    """Processes that decode; 0 decodes in this one."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)


@dataclass(frozen=True, kw_only=True)
class VideoRows:
    """The rows of a video's n clips, in order of time."""

    index: int
    """Place of the video in the list."""
    rows: Tensor
    """(n, num_crops, C), as the network gives them, on the CPU."""
    seconds: Tensor
    """From when to when, float64 (n, 2)."""

    @property
    def whole(self) -> "VideoRows":
        """The mean over the clips and their crops as the row of the whole video: (1, 1, C)."""
        ends = self.seconds.new_tensor([[self.seconds[0, 0], self.seconds[:, 1].max()]])
        # Crops first, as where each clip has a row of its own.
        return VideoRows(index=self.index, rows=self.rows.mean(dim=1).mean(dim=0)[None, None], seconds=ends)


def extract_rows(
    paths: Sequence[Path],
    network: Callable[[Tensor], Tensor],
    settings: ClipSettings,
    resources: Resources,
    *,
    per_second: bool = False,
) -> Iterator[VideoRows | SkippedVideo]:
    """Run a network over the clips of videos, batches filled up across videos.

    The network takes uint8 clips (B, 3, F, S, S) on the device and gives rows (B, C). Each video is yielded once, as
    its last clip is done; one that cannot be decoded as `SkippedVideo`, as is one that crashes or blocks the process
    that decodes it, where that is not this one. `per_second` takes a clip for every second, instead of evenly spread
    ones.
    """
    batches = _Batches(network, resources)
    dataset = WindowDataset(paths, settings, per_second=per_second, limits=resources.limits)
    for item in _guarded_chunks(dataset, resources.workers):
        if isinstance(item, SkippedVideo):
            batches.drop(item.index)
            yield item
        else:
            yield from batches.add(item)
    yield from batches.flush()


def _guarded_chunks(dataset: WindowDataset, workers: int) -> Iterator[WindowChunk | SkippedVideo]:
    """The clips of all videos, each chunk once, whatever becomes of the processes that decode."""
    guard = Guard(dataset, workers=workers, flag="workers", timeout_seconds=dataset.limits.timeout_seconds)
    num_given = dict.fromkeys(range(len(dataset.paths)), 0)
    while num_given:
        dataset.left = list(num_given)
        loader = guard.loader(dataset, prefetch_factor=CHUNKS_AHEAD if workers else None)
        try:
            for item in guard.items(loader):
                if isinstance(item, WindowChunk):
                    if item.number < num_given[item.index]:
                        continue  # came before a process died
                    num_given[item.index] += 1
                if isinstance(item, SkippedVideo) or item.is_last:
                    del num_given[item.index]
                yield item
        except (RuntimeError, OSError, EOFError) as error:
            if not guard.survives(error):
                raise


class _Batches:
    """Clips on their way through the network, and the rows of videos that are not complete yet."""

    def __init__(self, network: Callable[[Tensor], Tensor], resources: Resources) -> None:
        self._network = network
        self._device = resources.device
        self._batch_size = resources.batch_size
        self._waiting: list[WindowChunk] = []
        self._done: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def add(self, chunk: WindowChunk) -> Iterator[VideoRows]:
        """Take clips of a video, and give the videos that are complete by now."""
        self._waiting.append(chunk)
        if sum(len(waiting.clips) * waiting.clips.shape[1] for waiting in self._waiting) >= self._batch_size:
            yield from self.flush()

    def drop(self, index: int) -> None:
        """Forget a video that cannot be decoded to its end."""
        self._waiting = [chunk for chunk in self._waiting if chunk.index != index]
        self._done.pop(index, None)

    def flush(self) -> Iterator[VideoRows]:
        """Encode what is waiting, and give the videos that are complete."""
        if not self._waiting:
            return
        clips = torch.cat([chunk.clips.flatten(0, 1) for chunk in self._waiting])
        parts = torch.split(clips, self._batch_size)
        rows = torch.cat([self._network(part.to(self._device, non_blocking=True)).cpu() for part in parts])
        views = [len(chunk.clips) * chunk.clips.shape[1] for chunk in self._waiting]
        waiting, self._waiting = self._waiting, []
        for chunk, part in zip(waiting, torch.split(rows, views), strict=True):
            own = part.reshape(*chunk.clips.shape[:2], -1)
            self._done.setdefault(chunk.index, []).append((own, chunk.seconds))
            if chunk.is_last:
                rows_of_clips, seconds = zip(*self._done.pop(chunk.index), strict=True)
                yield VideoRows(index=chunk.index, rows=torch.cat(rows_of_clips), seconds=torch.cat(seconds))
