"""Batches of views for pre-training, every choice in them a function of (seed, epoch, index)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fima.config import DataConfig
from fima.data.augment import draw_colour
from fima.data.clips import WHOLE, ClipTiming, Part, full_positions, window_starts
from fima.data.datasets import VideoList
from fima.data.decode.kept import KeptVideo, VideoStore
from fima.data.decode.limits import check_size
from fima.data.decode.video import VideoReader
from fima.data.epoch_plan import REPLACEMENT_STREAM, SAMPLE_STREAM, item_generator
from fima.data.sampler import EpochSampler
from fima.data.views import ClipViews, sample_views, stack_views
from fima.data.workers.crash_guard import Attempt, GuardedLoader, Watch, init_worker, watched
from fima.data.workers.open_files import require_open_files
from fima.data.workers.shared_memory import handed_over
from fima.errors import VideoError

TENSORS_PER_CLIP = 4
MAX_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class SkippedVideo:
    """A video that could not be decoded when its turn came."""

    path: str
    """The file."""
    reason: str
    """Why, in a few words."""
    epoch: int
    """The epoch in which it was tried; 0 in an evaluation."""
    index: int
    """Its place in the list of videos."""


@dataclass(frozen=True, kw_only=True)
class TrainSample:
    """What every kind of training sample says about its video."""

    index: int
    path: str
    label: int
    skipped: list[SkippedVideo]


Sample = TypeVar("Sample", bound=TrainSample)
Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True)
class PretrainSample(TrainSample):
    """One video's part of a batch: the fields of `PretrainBatch` without the batch dimension."""

    a: ClipViews
    b: ClipViews
    draws_a: Tensor
    draws_b: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """What every kind of training batch says about its B videos."""

    index: Tensor
    """Place of each video in the list, int64 (B,)."""
    paths: list[str]
    """The B files."""
    labels: Tensor
    """Classes, int64 (B,); -1 where unknown."""
    skipped: list[SkippedVideo]
    """Videos that could not be decoded and were replaced by others."""

    def split(self, num_parts: int) -> list[Self]:
        """The batch in `num_parts` parts of nearly equal size, or in single videos where there are fewer."""
        rows = torch.arange(len(self.paths)).tensor_split(min(num_parts, len(self.paths)))
        return [self] if len(rows) == 1 else [self._part(slice(int(part[0]), int(part[-1]) + 1)) for part in rows]

    def _part(self, rows: slice) -> Self:
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if name != "skipped"})


@dataclass(frozen=True, kw_only=True)
class PretrainBatch(TrainBatch):
    """Two clips each of B videos."""

    a: ClipViews
    """One clip of each video."""
    b: ClipViews
    """The other clip."""
    draws_a: Tensor
    """Colour draws of clip a, float32 (B, 4, P): for full, its difference, early and late difference."""
    draws_b: Tensor
    """Colour draws of clip b."""

    def to(self, device: torch.device | str) -> "PretrainBatch":
        """The same batch with its views on `device`; draws, indices and labels are read by the host and stay there."""
        return replace(self, a=self.a.to(device), b=self.b.to(device))

    def pin_memory(self) -> "PretrainBatch":
        """The same batch with its views in page-locked memory."""
        return replace(self, a=self.a.pin_memory(), b=self.b.pin_memory())


class TrainDataset(Dataset[Sample], ABC):
    """Random samples of videos; a video that cannot be decoded is replaced by another.

    Args:
        videos: the list; what an item (epoch, place) is drawn from follows from its plan of an epoch.
        data: frames, crops.
        seed: every draw of an item follows from (seed, epoch, place).
    """

    def __init__(self, videos: VideoList, data: DataConfig, seed: int) -> None:
        self.videos = videos
        self.plan = videos.epoch
        self.data = data
        self.data_by_set = self.plan.settings(data)
        self.seed = seed
        self.crashed: dict[Attempt, str] = {}
        self.store = VideoStore(data.keep_mb)

    def __len__(self) -> int:
        return len(self.videos.videos)

    @abstractmethod
    def draw(self, index: int, generator: np.random.Generator, part: Part = WHOLE) -> Sample:
        """A sample of a part of video `index`, every choice from the generator.

        Raises:
            VideoError: the video cannot be decoded.
        """

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """The sample of (epoch, place); that of another video of the set where the one that is due cannot be decoded.

        Raises:
            VideoError: none of ten videos in a row can be decoded.
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

    def check_size(self, reader: VideoReader | KeptVideo, num_frames: int) -> None:
        """Refuse a video of which so many frames take too much memory. Raises VideoError."""
        data = self.data
        check_size(reader, num_frames, max_frame_pixels=data.max_frame_pixels, max_clip_mb=data.max_clip_mb)

    def attempt(self, attempt: Attempt) -> Sample:
        """One try to draw a sample.

        Raises:
            VideoError: the video cannot be decoded, or has crashed a process before.
        """
        with watched(attempt, self.crashed, self.videos.videos[attempt.chosen].path):
            draws = item_generator(SAMPLE_STREAM, self.seed, attempt.epoch, attempt.index, attempt.number)
            part = self.plan.part_of(attempt.index, attempt.chosen)
            return self.draw(attempt.chosen, draws, part)


def drawn_timing(data: DataConfig, generator: np.random.Generator) -> ClipTiming:
    """The timing of a sample's clips; nothing is drawn but a span, where there is a range of them."""
    span = float(generator.uniform(*data.span)) if data.span is not None else 0.0
    return ClipTiming(stride=data.stride, fps=data.fps, frame_rate=data.frame_rate, span=span)


class PretrainDataset(TrainDataset[PretrainSample]):
    """Two random clips of each video; `early`, `late` and the frames for them only where the method uses them."""

    def __init__(self, videos: VideoList, data: DataConfig, seed: int, *, frame_views: bool = True) -> None:
        super().__init__(videos, data, seed)
        self.frame_views = frame_views

    def draw(self, index: int, generator: np.random.Generator, part: Part = WHOLE) -> PretrainSample:
        """Two windows of a part of the video, each in three views."""
        video = self.videos.videos[index]
        timing = drawn_timing(self.data_by_set[self.plan.set_number(index)], generator)
        with self.store.open(video.path) as reader:
            self.check_size(reader, 4 * self.data.frames)
            window = timing.window(reader, self.data.frames)
            starts = window_starts(
                reader.num_frames,
                window.length,
                generator,
                sampling=self.data.clip_sampling,
                step_frames=self.data.step_between_clips,
                part=part,
            )
            used = slice(None) if self.frame_views else full_positions(self.data.frames)
            wanted = [i for start in starts for i in window.indices(start)[used]]
            frames = np.split(reader.read(wanted), 2)
        a, b = (sample_views(clip, self.data, generator, frame_views=self.frame_views) for clip in frames)
        draws = draw_colour(generator, 2 * TENSORS_PER_CLIP, self.data)
        return PretrainSample(
            a=a,
            b=b,
            draws_a=draws[:TENSORS_PER_CLIP],
            draws_b=draws[TENSORS_PER_CLIP:],
            index=index,
            path=str(video.path),
            label=-1 if video.label is None else video.label,
            skipped=[],
        )


class _ErrorsAsItems(Dataset[Sample | VideoError]):
    """Hands errors on as items: a DataLoader would raise those of a worker process as RuntimeErrors."""

    def __init__(self, dataset: TrainDataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> Sample | VideoError:
        try:
            return self.dataset[item]
        except VideoError as error:
            return error


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
    return build_loader(PretrainDataset(videos, data, seed, frame_views=frame_views), sampler, collate_samples)


def build_loader(
    dataset: TrainDataset[Sample], sampler: EpochSampler, collate: Callable[[Sequence[Sample]], Batch]
) -> GuardedLoader[Batch]:
    """Batches, as `collate` stacks them, of any training samples; errors of worker processes are raised in this one."""
    workers, seconds = dataset.data.workers, dataset.data.timeout_seconds
    require_open_files(workers, flag="data.workers")

    def start(watch: Watch) -> "DataLoader[Sample | VideoError]":
        return DataLoader(
            _ErrorsAsItems(dataset),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=partial(handed_over, partial(_collate_or_error, collate)),
            worker_init_fn=partial(init_worker, watch=watch),
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: the loader would otherwise draw from the one that dropout uses.
            generator=torch.Generator().manual_seed(dataset.seed),
        )

    return GuardedLoader(dataset, sampler, start, workers=workers, timeout_seconds=seconds)


def _collate_or_error(
    collate: Callable[[Sequence[Sample]], Batch], items: Sequence[Sample | VideoError]
) -> Batch | VideoError:
    """Stacks samples into a batch; gives the first error instead, where there is one."""
    errors = [item for item in items if isinstance(item, VideoError)]
    return errors[0] if errors else collate([item for item in items if not isinstance(item, VideoError)])


def collate_samples(samples: Sequence[PretrainSample]) -> PretrainBatch:
    """Stacks samples into a batch."""
    return PretrainBatch(
        a=stack_views([sample.a for sample in samples]),
        b=stack_views([sample.b for sample in samples]),
        draws_a=torch.stack([sample.draws_a for sample in samples]),
        draws_b=torch.stack([sample.draws_b for sample in samples]),
        **about_videos(samples),
    )


def about_videos(samples: Sequence[TrainSample]) -> dict[str, Any]:
    """What a batch says about its videos: the fields of `TrainBatch`."""
    return {
        "index": torch.tensor([sample.index for sample in samples]),
        "paths": [sample.path for sample in samples],
        "labels": torch.tensor([sample.label for sample in samples]),
        "skipped": [skip for sample in samples for skip in sample.skipped],
    }
