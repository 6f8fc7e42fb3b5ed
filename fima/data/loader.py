"""Batches of views for pre-training, every choice in them a function of (seed, epoch, index)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from fima.config import DataConfig
from fima.data.augment import draw_colour
from fima.data.clips import FULL, WHOLE, ClipTiming, Part, window_starts
from fima.data.datasets import VideoList
from fima.data.decode.kept import VideoStore
from fima.data.decode.limits import DecodeLimits
from fima.data.epoch_plan import REPLACEMENT_STREAM, SAMPLE_STREAM, EpochSampler, item_generator
from fima.data.views import ClipViews, sample_views
from fima.data.workers.crash_guard import Attempt, GuardedLoader, watched
from fima.errors import VideoError

TENSORS_PER_CLIP = 4
MAX_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class SkippedVideo:
    """A video that could not be decoded when its turn came."""

    path: str
    reason: str
    epoch: int
    """The epoch in which it was tried; 0 in an evaluation."""
    index: int
    """Its place in the list of videos."""


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """What every kind of training batch says about its B videos."""

    index: Tensor
    """Place of each video in the list, int64 (B,)."""
    paths: list[str]
    labels: Tensor
    """Classes, int64 (B,); -1 where unknown."""
    skipped: list[SkippedVideo]
    """Videos that could not be decoded and were replaced by others."""

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from which copies to a GPU do not block."""
        own = vars(self).items()
        return replace(self, **{name: value.pin_memory() for name, value in own if hasattr(value, "pin_memory")})

    def split(self, num_parts: int) -> list[Self]:
        """The batch in `num_parts` parts of nearly equal size, or in single videos where there are fewer."""
        rows = torch.arange(len(self.paths)).tensor_split(min(num_parts, len(self.paths)))
        return [self] if len(rows) == 1 else [self._part(slice(int(part[0]), int(part[-1]) + 1)) for part in rows]

    def _part(self, rows: slice) -> Self:
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if name != "skipped"})


Batch = TypeVar("Batch", bound=TrainBatch)


@dataclass(frozen=True, kw_only=True)
class PretrainBatch(TrainBatch):
    """Two clips each of B videos."""

    a: ClipViews
    """One clip of each video."""
    b: ClipViews
    draws_a: Tensor
    """Colour draws of clip a, float32 (B, 4, P): for full, its difference, early and late difference."""
    draws_b: Tensor

    def to(self, device: torch.device | str) -> "PretrainBatch":
        """The same batch with its views on `device`; draws, indices and labels are read by the host and stay there."""
        return replace(self, a=self.a.to(device), b=self.b.to(device))


class TrainDataset(ABC, Generic[Batch]):
    """Random samples of videos, each a batch of one; a video that cannot be decoded is replaced by another.

    Every draw of an item (epoch, place) follows from the seed; which video it is of, from the plan of an epoch.
    """

    def __init__(self, videos: VideoList, data: DataConfig, seed: int) -> None:
        self.videos = videos
        self.plan = videos.epoch
        self.data = data
        self.data_by_set = self.plan.settings(data)
        self.seed = seed
        self.limits = DecodeLimits.of(data)
        self.crashed: dict[Attempt, str] = {}
        self.store = VideoStore(data.keep_mb)

    @abstractmethod
    def draw(self, index: int, generator: np.random.Generator, part: Part = WHOLE) -> Batch:
        """A sample of a part of video `index`, every choice from the generator.

        Raises VideoError where it cannot be decoded.
        """

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        """The sample of (epoch, place); that of another video of the set where the one that is due cannot be decoded.

        Raises VideoError where none of ten videos in a row can be decoded.
        """
        epoch, place = item
        skipped: list[SkippedVideo] = []
        chosen = self.plan.video_of(place)
        others = self.plan.set_of(chosen)
        while True:
            attempt = Attempt(epoch, place, len(skipped), chosen)
            try:
                sample = self.attempt(attempt)
            except VideoError as error:
                skipped.append(SkippedVideo(path=str(error.path), reason=error.reason, epoch=epoch, index=chosen))
                if len(others) == 1 or len(skipped) == MAX_TRIES:
                    reason = f"{error.reason}; {len(skipped)} videos in a row cannot be decoded"
                    raise VideoError(error.path, error.reason if len(others) == 1 else reason) from error
                draws = item_generator(REPLACEMENT_STREAM, self.seed, epoch, place, len(skipped))
                step = 1 + int(draws.integers(len(others) - 1))
                chosen = others[(chosen - others.start + step) % len(others)]
            else:
                return replace(sample, skipped=skipped)

    def about(self, index: int) -> dict[str, Any]:
        """What the batch of one video says about it: the fields of `TrainBatch`."""
        video = self.videos.videos[index]
        label = -1 if video.label is None else video.label
        return {
            "index": torch.tensor([index]),
            "paths": [str(video.path)],
            "labels": torch.tensor([label]),
            "skipped": [],
        }

    def attempt(self, attempt: Attempt) -> Batch:
        """One try to draw a sample. Raises VideoError for a video that is damaged, or has crashed a process before."""
        with watched(attempt, self.crashed, self.videos.videos[attempt.chosen].path):
            draws = item_generator(SAMPLE_STREAM, self.seed, attempt.epoch, attempt.index, attempt.number)
            part = self.plan.part_of(attempt.index, attempt.chosen)
            return self.draw(attempt.chosen, draws, part)


def drawn_timing(data: DataConfig, generator: np.random.Generator) -> ClipTiming:
    """The timing of a sample's clips; nothing is drawn but a span, where there is a range of them."""
    span = float(generator.uniform(*data.span)) if data.span is not None else 0.0
    return ClipTiming(stride=data.stride, fps=data.fps, frame_rate=data.frame_rate, span=span)


class PretrainDataset(TrainDataset[PretrainBatch]):
    """Two random clips of each video; `early`, `late` and the frames for them only where the method uses them."""

    def __init__(self, videos: VideoList, data: DataConfig, seed: int, *, frame_views: bool = True) -> None:
        super().__init__(videos, data, seed)
        self.frame_views = frame_views

    def draw(self, index: int, generator: np.random.Generator, part: Part = WHOLE) -> PretrainBatch:
        """Two windows of a part of the video, each in three views."""
        timing = drawn_timing(self.data_by_set[self.plan.set_number(index)], generator)
        with self.store.open(self.videos.videos[index].path) as reader:
            self.limits.check(reader, 4 * self.data.frames)
            window = timing.window(reader, self.data.frames)
            starts = window_starts(
                reader.num_frames,
                window.reach,
                generator,
                sampling=self.data.clip_sampling,
                step_frames=self.data.step_between_clips,
                part=part,
            )
            used = slice(None) if self.frame_views else FULL
            wanted = [i for start in starts for i in window.indices(start)[used]]
            frames = np.split(reader.read(wanted), 2)
        a, b = (sample_views(clip, self.data, generator, frame_views=self.frame_views) for clip in frames)
        draws_a, draws_b = draw_colour(generator, 2 * TENSORS_PER_CLIP, self.data)[None].chunk(2, dim=1)
        return PretrainBatch(a=a[None], b=b[None], draws_a=draws_a, draws_b=draws_b, **self.about(index))


def build_pretrain_loader(
    videos: VideoList,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    frame_views: bool = True,
) -> GuardedLoader[PretrainBatch]:
    """The batches of a pre-training run: `batch_size` videos a step over all processes, of which this is number `rank`.

    They do not depend on the number of worker processes. `frame_views`: whether `early` and `late` are wanted.
    """
    sampler = EpochSampler(videos.epoch, batch_size, seed, rank, world_size)
    return build_loader(PretrainDataset(videos, data, seed, frame_views=frame_views), sampler)


def build_loader(dataset: TrainDataset[Batch], sampler: EpochSampler) -> GuardedLoader[Batch]:
    """Batches of any training samples; errors of worker processes are raised in this one."""
    return GuardedLoader(dataset, sampler, workers=dataset.data.workers, timeout_seconds=dataset.limits.timeout_seconds)
