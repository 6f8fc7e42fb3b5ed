"""Clips of videos for embedding: evenly spread, or one for every second, however long a video is."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fima.data.clips import ROUNDING, Window, evenly_spread_starts, full_positions, in_one_pass
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings, cut_clips, square_crops, whole_video
from fima.data.loader import SkippedVideo
from fima.data.views import Crop, crop_and_resize
from fima.data.workers.crash_guard import Attempt, watched
from fima.errors import VideoError

CLIPS_AT_ONCE = 8
"""Clips of a video that are held at a time, so that memory does not grow with its length."""


@dataclass(frozen=True, kw_only=True)
class WindowChunk:
    """The next n clips of a video."""

    index: int
    """Place of the video in the list."""
    clips: Tensor
    """uint8 (n, num_crops, 3, F, S, S)."""
    seconds: Tensor
    """From when to when, float64 (n, 2), at the video's mean frame rate; NaN where it has none."""
    is_last: bool
    """Whether no clip of the video is left."""
    number: int
    """How many of them came before."""


@dataclass(frozen=True)
class Span:
    """One clip of a video."""

    start: int
    """First frame of its window."""
    seconds: tuple[float, float]
    """What it stands for."""


class WindowDataset(IterableDataset[WindowChunk | SkippedVideo]):
    """The clips of videos, a few at a time; several processes take turns at the videos.

    A video that turns out to be damaged after its first clips is skipped as well: what follows them is its
    `SkippedVideo`.

    Args:
        paths: the files.
        settings: how clips are cut; `num_clips` does not count where there is one for every second.
        per_second: one clip around the middle of every second, instead of `num_clips` evenly spread ones.
        limits: what a video may take; the time is that for the next clips of it.
    """

    def __init__(
        self, paths: Sequence[Path], settings: ClipSettings, *, per_second: bool, limits: DecodeLimits = USUAL_LIMITS
    ) -> None:
        self.paths = paths
        self.settings = settings
        self.per_second = per_second
        self.limits = limits
        self.left: Sequence[int] = range(len(paths))
        """Places of the videos that are still wanted."""
        self.crashed: dict[Attempt, str] = {}

    def __iter__(self) -> Iterator[WindowChunk | SkippedVideo]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in self.left[first::step]:
            try:
                yield from self._watched_chunks(whole_video(index))
            except VideoError as error:
                yield SkippedVideo(path=str(self.paths[index]), reason=error.reason, epoch=0, index=index)

    def attempt(self, attempt: Attempt) -> None:
        """Decode all clips of one video. Raises VideoError."""
        for _ in self._watched_chunks(attempt):
            pass

    def _watched_chunks(self, attempt: Attempt) -> Iterator[WindowChunk]:
        """The clips of a video; what waits for the reader of the next ones does not count as work on them."""
        chunks = self._chunks(attempt.index)
        while True:
            with watched(attempt, self.crashed, self.paths[attempt.index]):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def _chunks(self, index: int) -> Iterator[WindowChunk]:
        with VideoReader(self.paths[index]) as reader:
            yield from self._chunks_of(index, reader)

    def _chunks_of(self, index: int, reader: VideoReader) -> Iterator[WindowChunk]:
        settings = self.settings
        at_once = 1 if self.per_second else CLIPS_AT_ONCE * settings.frames
        self.limits.check(reader, min(reader.num_frames, at_once))
        crops = square_crops(reader.width, reader.height, settings.num_crops, settings.ori_resolution)
        window = settings.timing.window(reader, settings.frames)
        spans = self._spans(reader, window.length)
        groups = [spans[at : at + CLIPS_AT_ONCE] for at in range(0, len(spans), CLIPS_AT_ONCE)]
        if self.per_second:
            clips = _in_one_pass(reader, window, spans, crops, settings)
        else:
            clips = (
                cut_clips(
                    reader,
                    window,
                    [span.start for span in group],
                    crops,
                    crop_size=settings.crop_size,
                )
                for group in groups
            )
        for number, (group, pixels) in enumerate(zip(groups, clips, strict=True), start=1):
            yield WindowChunk(
                index=index,
                clips=pixels.reshape(len(group), len(crops), *pixels.shape[1:]),
                seconds=torch.tensor([span.seconds for span in group], dtype=torch.float64),
                is_last=number == len(groups),
                number=number - 1,
            )

    def _spans(self, reader: VideoReader, window: int) -> list[Span]:
        """The clips of a video in order of time."""
        num_frames = reader.num_frames
        fps = reader.fps or self.settings.frame_rate or math.nan
        if not self.per_second:
            starts = evenly_spread_starts(num_frames, window, self.settings.num_clips)
            return [Span(start, (start / fps, min(start + window, num_frames) / fps)) for start in starts]
        if math.isnan(fps):
            raise VideoError(reader.path, "has no frame rate, so it has no seconds; give --frame-rate")
        last = max(0, num_frames - window)
        spans = []
        for second in range(math.ceil(num_frames / fps - ROUNDING)):
            end = min(second + 1.0, num_frames / fps)
            middle = (second + end) / 2 * fps
            spans.append(Span(min(last, max(0, round(middle) - window // 2)), (float(second), end)))
        return spans


def _in_one_pass(
    reader: VideoReader, window: Window, spans: Sequence[Span], crops: Sequence[Crop], settings: ClipSettings
) -> Iterator[Tensor]:
    """Cut overlapping clips while the video is decoded once, holding only the frames that are still needed.

    Yields:
        uint8 (n·num_crops, 3, F, S, S) for the next n clips, `CLIPS_AT_ONCE` at a time.
    """
    wanted = [window.indices(span.start)[full_positions(settings.frames)] for span in spans]

    def cropped(frame: npt.NDArray[np.uint8]) -> list[Tensor]:
        return [crop_and_resize(frame[None], crop, settings.crop_size) for crop in crops]

    ready: list[Tensor] = []
    for clip in in_one_pass(reader.stream(), wanted, cropped):
        ready += [torch.cat([frame[number] for frame in clip], dim=1) for number in range(len(crops))]
        if len(ready) == CLIPS_AT_ONCE * len(crops):
            yield torch.stack(ready)
            ready = []
    if ready:
        yield torch.stack(ready)
