"""Batches of labelled clips to train a classifier on, every choice in them a function of (seed, epoch, index)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fima.config import DataConfig
from fima.data.augment import draw_colour
from fima.data.clips import FULL, WHOLE, Part, window_starts
from fima.data.datasets import VideoList
from fima.data.epoch_plan import EpochSampler
from fima.data.loader import TrainBatch, TrainDataset, build_loader, drawn_timing
from fima.data.views import crop_and_resize, random_crop
from fima.data.workers.crash_guard import GuardedLoader
from fima.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(TrainBatch):
    """One clip each of B videos."""

    clips: Tensor
    """Every second frame of a random window, cropped and flipped at random, uint8 (B, 3, F, S, S)."""
    draws: Tensor
    """Colour draws, float32 (B, 11)."""

    def to(self, device: torch.device | str) -> "LabelledBatch":
        """The same batch with clips and labels on `device`; the draws are read by the host and stay there."""
        clips, labels = (tensor.to(device, non_blocking=True) for tensor in (self.clips, self.labels))
        return replace(self, clips=clips, labels=labels)


class LabelledDataset(TrainDataset[LabelledBatch]):
    """One random clip of each video."""

    def draw(self, index: int, generator: np.random.Generator, part: Part = WHOLE) -> LabelledBatch:
        """A random window of the video, every second frame, in one random crop."""
        data = self.data
        with self.store.open(self.videos.videos[index].path) as reader:
            self.limits.check(reader, data.frames)
            window = drawn_timing(data, generator).window(reader, data.frames)
            step = data.step_between_clips
            start, _ = window_starts(
                reader.num_frames, window.reach, generator, sampling="same", step_frames=step, part=part
            )
            frames = reader.read(window.indices(start)[FULL])
        height, width = frames.shape[1:3]
        clip = crop_and_resize(frames, random_crop(width, height, data, generator), data.crop_size)
        return LabelledBatch(clips=clip[None], draws=draw_colour(generator, 1, data), **self.about(index))


def build_labelled_loader(
    videos: VideoList, data: DataConfig, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> GuardedLoader[LabelledBatch]:
    """The training batches of a classifier, as `build_pretrain_loader`. Raises DataError as `require_labels`."""
    require_labels(videos)
    sampler = EpochSampler(videos.epoch, batch_size, seed, rank, world_size)
    return build_loader(LabelledDataset(videos, data, seed), sampler)


def require_labels(videos: VideoList) -> None:
    """Raise DataError, with an example, for a list with videos whose class is unknown."""
    unknown = [video.path for video in videos.videos if video.label is None]
    if unknown or not videos.classes:
        example = f", such as {unknown[0]}" if unknown else ""
        raise DataError(
            f"{videos.root}: {len(unknown)} of the {len(videos.videos)} videos of the {videos.split} list have no "
            f"class{example}; a classifier needs one for each (folders named after classes, or list files)"
        )
