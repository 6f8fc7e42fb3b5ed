"""Evenly spread, centre-cropped clips for evaluation; nothing here is random."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fima.data.clips import evenly_spread_starts, full_positions, window_indices
from fima.data.datasets import VideoList
from fima.data.loader import SkippedVideo, init_worker
from fima.data.video import VideoReader
from fima.data.views import Crop, crop_and_resize
from fima.errors import VideoError

CENTRE_SHARE = 0.875


@dataclass(frozen=True, kw_only=True)
class EvalSample:
    """The clips of one video."""

    clips: Tensor
    """uint8 (num_clips, 3, F, S, S)."""
    label: int
    """Its class; -1 where unknown."""
    index: int
    """Its place in the list of videos."""


@dataclass(frozen=True, kw_only=True)
class EvalBatch:
    """The clips of B videos."""

    clips: Tensor
    """uint8 (B, num_clips, 3, F, S, S); videos that cannot be decoded are left out."""
    labels: Tensor
    """Classes, int64 (B,); -1 where unknown."""
    index: Tensor
    """Place of each video in the list, int64 (B,)."""
    skipped: list[SkippedVideo]
    """Videos that could not be decoded."""


class EvalClipsDataset(Dataset[EvalSample | SkippedVideo]):
    """`num_clips` windows of 2·F frames from each video, evenly spread, every second frame taken.

    The crop is the centred square of 0.875 of the frame's short side, scaled to the crop size.

    Args:
        videos: the list.
        frames: frames F per clip.
        crop_size: side S of the clips, in pixels.
        num_clips: clips per video.
    """

    def __init__(self, videos: VideoList, *, frames: int, crop_size: int, num_clips: int) -> None:
        self.videos = videos
        self.frames = frames
        self.crop_size = crop_size
        self.num_clips = num_clips

    def __len__(self) -> int:
        return len(self.videos.videos)

    def __getitem__(self, index: int) -> EvalSample | SkippedVideo:
        video = self.videos.videos[index]
        try:
            clips = self._clips(index)
        except VideoError as error:
            return SkippedVideo(path=str(video.path), reason=error.reason, epoch=0, index=index)
        return EvalSample(clips=clips, label=-1 if video.label is None else video.label, index=index)

    def _clips(self, index: int) -> Tensor:
        window = 2 * self.frames
        with VideoReader(self.videos.videos[index].path) as reader:
            starts = evenly_spread_starts(reader.num_frames, window, self.num_clips)
            wanted = [window_indices(start, window, reader.num_frames)[full_positions(self.frames)] for start in starts]
            distinct = sorted({i for clip in wanted for i in clip})
            crop = centre_crop(reader.width, reader.height)
            frames = crop_and_resize(reader.read(distinct), crop, self.crop_size)
        row = {i: position for position, i in enumerate(distinct)}
        return torch.stack([frames[:, [row[i] for i in clip]] for clip in wanted])


def centre_crop(frame_width: int, frame_height: int) -> Crop:
    """The centred square of 0.875 of the short side, at least one pixel."""
    side = max(1, round(CENTRE_SHARE * min(frame_width, frame_height)))
    return Crop(left=(frame_width - side) // 2, top=(frame_height - side) // 2, width=side, height=side, flipped=False)


class EvalLoader:
    """Iterates over batches of evaluation clips in the order of the list; made by `build_eval_loader`."""

    def __init__(self, loader: "DataLoader[EvalSample | SkippedVideo]") -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[EvalBatch]:
        return iter(self._loader)


def build_eval_loader(
    videos: VideoList, *, frames: int, crop_size: int, num_clips: int, batch_size: int, workers: int
) -> EvalLoader:
    """Batches of evaluation clips, in the order of the list.

    Args:
        videos: the list.
        frames: frames F per clip.
        crop_size: side S of the clips, in pixels.
        num_clips: clips per video.
        batch_size: videos per batch.
        workers: processes that decode; 0 decodes in this one.
    """
    dataset = EvalClipsDataset(videos, frames=frames, crop_size=crop_size, num_clips=num_clips)

    def collate(items: Sequence[EvalSample | SkippedVideo]) -> EvalBatch:
        samples = [item for item in items if isinstance(item, EvalSample)]
        no_clips = torch.empty((0, num_clips, 3, frames, crop_size, crop_size), dtype=torch.uint8)
        return EvalBatch(
            clips=torch.stack([sample.clips for sample in samples]) if samples else no_clips,
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            index=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
            skipped=[item for item in items if isinstance(item, SkippedVideo)],
        )

    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=init_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
    return EvalLoader(loader)
