"""What a network makes of the clips of videos: evenly spread, or one for every second, decoded while it computes."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fima.config.checks import require_least
from fima.data.clips import FULL, ROUNDING, Window, evenly_spread_starts, in_one_pass
from fima.data.datasets import VideoList
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings, cut_clips, square_crops
from fima.data.loader import SkippedVideo
from fima.data.views import Crop, crop_and_resize
from fima.data.workers.crash_guard import Attempt, Guard, watched
from fima.errors import DataError, VideoError

CHUNKS_AHEAD = 4
CLIPS_AT_ONCE = 8
"""Clips of a video that are held at a time, so that memory does not grow with its length."""
CPU = torch.device("cpu")

Rows = TypeVar("Rows")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the work may take; the results depend on it in the last digits at most."""

    device: torch.device = CPU
    batch_size: int = 32
    """Clips at a time."""
    workers: int = 0
    """Processes that decode; 0 decodes in this one."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    def __post_init__(self) -> None:
        require_least(self, batch_size=1, workers=0)


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


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The videos of a list that can be decoded, in its order."""

    labels: Tensor
    """(V,) class numbers; -1 where unknown."""
    paths: list[str]
    undecodable: list[SkippedVideo]
    """The other files of the list."""

    def describe(self) -> dict[str, Any]:
        """What results say of the list: how many could be decoded, and which could not."""
        undecodable = [{"path": video.path, "reason": video.reason} for video in self.undecodable]
        return {"num_evaluated": len(self.paths), "undecodable": undecodable}


def told_apart(videos: VideoList, found: Sequence[Rows | str]) -> tuple[list[Rows], Decoded]:
    """Return what was found of the videos of a list that can be decoded, and which these are, given why others cannot.

    Raises DataError where there is none.
    """
    pairs = list(zip(videos.videos, found, strict=True))
    chosen = [video for video, each in pairs if not isinstance(each, str)]
    undecodable = [
        SkippedVideo(path=str(video.path), reason=reason, epoch=0, index=place)
        for place, (video, reason) in enumerate(pairs)
        if isinstance(reason, str)
    ]
    if not chosen:
        first = undecodable[0]
        raise DataError(
            f"{videos.root}: none of {len(undecodable)} videos can be decoded; {first.path}: {first.reason}"
        )
    labels = torch.tensor([-1 if video.label is None else video.label for video in chosen])
    decoded = Decoded(labels=labels, paths=[str(video.path) for video in chosen], undecodable=undecodable)
    return [each for each in found if not isinstance(each, str)], decoded


@dataclass(frozen=True, kw_only=True)
class WindowChunk:
    """The next n clips of a video."""

    index: int
    clips: Tensor
    """uint8 (n, num_crops, 3, F, S, S)."""
    seconds: Tensor
    """From when to when, float64 (sum of the copies, 2), at the video's mean frame rate; NaN where it has none."""
    is_last: bool
    """Whether no clip of the video is left."""
    number: int
    """How many of them came before."""
    copies: Tensor
    """How many clips each stands for, int64 (n,): of clips that begin at the same frame, one is decoded and encoded."""


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
    that decodes it, where that is not this one. `per_second` takes a clip for every second, not evenly spread ones.
    """
    dataset = WindowDataset(paths, settings, per_second=per_second, limits=resources.limits)
    waiting: list[WindowChunk] = []
    begun: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for item in _guarded_chunks(dataset, resources.workers):
        if isinstance(item, SkippedVideo):
            waiting = [chunk for chunk in waiting if chunk.index != item.index]
            begun.pop(item.index, None)
            yield item
            continue
        waiting.append(item)
        if sum(chunk.clips.shape[:2].numel() for chunk in waiting) >= resources.batch_size:
            yield from _completed(waiting, begun, network, resources)
            waiting = []
    yield from _completed(waiting, begun, network, resources)


def _completed(
    waiting: Sequence[WindowChunk],
    begun: dict[int, list[tuple[Tensor, Tensor]]],
    network: Callable[[Tensor], Tensor],
    resources: Resources,
) -> Iterator[VideoRows]:
    """Encode what is waiting, add its rows and times to those of the begun videos, and give the complete ones."""
    if not waiting:
        return
    clips = [chunk.clips.flatten(0, 1) for chunk in waiting]
    batches = torch.split(torch.cat(clips), resources.batch_size)
    rows = torch.cat([network(batch.to(resources.device, non_blocking=True)).cpu() for batch in batches])
    for chunk, part in zip(waiting, torch.split(rows, [len(each) for each in clips]), strict=True):
        part = part.reshape(*chunk.clips.shape[:2], -1).repeat_interleave(chunk.copies, dim=0)
        begun[chunk.index].append((part, chunk.seconds))
        if chunk.is_last:
            rows_of_clips, seconds = zip(*begun.pop(chunk.index), strict=True)
            yield VideoRows(index=chunk.index, rows=torch.cat(rows_of_clips), seconds=torch.cat(seconds))


def decoded_clips(paths: Sequence[Path], settings: ClipSettings, resources: Resources) -> Iterator[tuple[int, Tensor]]:
    """The clips of each video that can be decoded, with its place in `paths`, in that order.

    Clips are uint8 (num_clips, num_crops, 3, F, S, S). Neither they nor their order depend on the number of processes.
    """
    due, done = 0, dict[int, VideoRows | SkippedVideo]()
    size = (3, settings.frames, settings.crop_size, settings.crop_size)
    for found in extract_rows(paths, lambda clips: clips.flatten(1), settings, replace(resources, device=CPU)):
        done[found.index] = found
        while first := done.pop(due, None):
            if isinstance(first, VideoRows):
                yield due, first.rows.reshape(*first.rows.shape[:2], *size)
            due += 1


@dataclass(eq=False)
class WindowDataset(IterableDataset[WindowChunk | SkippedVideo]):
    """The clips of videos, a few at a time; several processes take turns at the videos.

    They are evenly spread over a video, or, `per_second`, around the middle of every second; `num_clips` does not count
    then. The time of the limits is that for the next clips of a video. One that turns out to be damaged after its first
    clips is skipped as well: what follows them is its `SkippedVideo`.
    """

    paths: Sequence[Path]
    settings: ClipSettings
    _: KW_ONLY
    per_second: bool = False
    limits: DecodeLimits = USUAL_LIMITS
    left: Sequence[int] = field(init=False)
    """Places of the videos that are still wanted."""
    crashed: dict[Attempt, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.left = range(len(self.paths))

    def __iter__(self) -> Iterator[WindowChunk | SkippedVideo]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in self.left[first::step]:
            try:
                yield from self._watched_chunks(Attempt(epoch=0, index=index, number=0, chosen=index))
            except VideoError as error:
                yield SkippedVideo(path=str(self.paths[index]), reason=error.reason, epoch=0, index=index)

    def attempt(self, attempt: Attempt) -> None:
        """Decode all clips of one video. Raises VideoError."""
        for _ in self._watched_chunks(attempt):
            pass

    def _watched_chunks(self, attempt: Attempt) -> Iterator[WindowChunk]:
        """The clips of a video; what waits for the reader of the next ones does not count as work on them."""
        chunks = self.chunks(attempt.index)
        while True:
            with watched(attempt, self.crashed, self.paths[attempt.index]):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def chunks(self, index: int) -> Iterator[WindowChunk]:
        """The clips of one video, a few at a time. Raises VideoError."""
        settings = self.settings
        with VideoReader(self.paths[index]) as reader:
            at_once = 1 if self.per_second else min(CLIPS_AT_ONCE, settings.num_clips) * settings.frames
            self.limits.check(reader, min(reader.num_frames, at_once))
            crops = square_crops(reader.width, reader.height, settings.num_crops, settings.ori_resolution)
            window = settings.timing.window(reader, settings.frames)
            starts, seconds = self._places(reader, window)
            # Starts rise. Encoded twice, in other batches, a clip would differ from itself in the last digits.
            num_same = Counter(starts)
            distinct, copies = list(num_same), torch.split(torch.tensor(list(num_same.values())), CLIPS_AT_ONCE)
            groups = [distinct[at : at + CLIPS_AT_ONCE] for at in range(0, len(distinct), CLIPS_AT_ONCE)]
            times = torch.split(torch.tensor(seconds, dtype=torch.float64), [int(each.sum()) for each in copies])
            if self.per_second:
                clips = _in_one_pass(reader, window, distinct, crops, settings)
            else:
                clips = (cut_clips(reader, window, group, crops, crop_size=settings.crop_size) for group in groups)
            for number, (group, pixels) in enumerate(zip(groups, clips, strict=True)):
                yield WindowChunk(
                    index=index,
                    clips=pixels.reshape(len(group), len(crops), *pixels.shape[1:]),
                    seconds=times[number],
                    is_last=number == len(groups) - 1,
                    number=number,
                    copies=copies[number],
                )

    def _places(self, reader: VideoReader, window: Window) -> tuple[list[int], list[tuple[float, float]]]:
        """The first frame of each clip of a video, in order of time, and from when to when it stands for the video."""
        num_frames = reader.num_frames
        fps = reader.fps or self.settings.frame_rate or math.nan
        if not self.per_second:
            starts = evenly_spread_starts(num_frames, window.reach, self.settings.num_clips)
            return starts, [(start / fps, min(start + window.length, num_frames) / fps) for start in starts]
        if math.isnan(fps):
            raise VideoError(reader.path, "has no frame rate, so it has no seconds; give --frame-rate")
        last = max(0, num_frames - window.reach)
        begins = range(math.ceil(num_frames / fps - ROUNDING))
        seconds = [(float(begin), min(begin + 1.0, num_frames / fps)) for begin in begins]
        starts = [min(last, max(0, round((begin + end) / 2 * fps) - window.length // 2)) for begin, end in seconds]
        return starts, seconds


def _in_one_pass(
    reader: VideoReader, window: Window, starts: Sequence[int], crops: Sequence[Crop], settings: ClipSettings
) -> Iterator[Tensor]:
    """Cut overlapping clips in one pass over the video, uint8 (n·num_crops, 3, F, S, S), `CLIPS_AT_ONCE` at a time."""
    wanted = [window.indices(start)[FULL] for start in starts]

    def cropped(frame: npt.NDArray[np.uint8]) -> list[Tensor]:
        return [crop_and_resize(frame[None], crop, settings.crop_size) for crop in crops]

    clips = in_one_pass(reader.stream(), wanted, cropped)
    while some := list(islice(clips, CLIPS_AT_ONCE)):
        yield torch.stack([torch.cat(frames, dim=1) for clip in some for frames in zip(*clip, strict=True)])


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
