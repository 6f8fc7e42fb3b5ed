"""Evenly spread clips for evaluation, centre-cropped or cut into three crops; nothing here is random."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fima.data.clips import evenly_spread_starts, full_positions, window_indices
from fima.data.datasets import VideoList
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.decode.video import VideoReader
from fima.data.loader import SkippedVideo
from fima.data.views import Crop, crop_and_resize
from fima.data.workers.crash_guard import Attempt, GuardedLoader, Watch, init_worker, watched
from fima.data.workers.shared_memory import handed_over
from fima.errors import VideoError

CENTRE_SHARE = 0.875

NumCrops = Literal[1, 3]
"""Square crops per clip: the centre, or three along the longer side."""


@dataclass(frozen=True, kw_only=True)
class EvalSample:
    """The clips of one video."""

    clips: Tensor
    """uint8 (num_clips·num_crops, 3, F, S, S); the crops of a clip follow one another."""
    label: int
    """Its class; -1 where unknown."""
    index: int
    """Its place in the list of videos."""


@dataclass(frozen=True, kw_only=True)
class EvalBatch:
    """The clips of B videos."""

    clips: Tensor
    """uint8 (B, num_clips·num_crops, 3, F, S, S); videos that cannot be decoded are left out."""
    labels: Tensor
    """Classes, int64 (B,); -1 where unknown."""
    index: Tensor
    """Place of each video in the list, int64 (B,)."""
    skipped: list[SkippedVideo]
    """Videos that could not be decoded."""


def whole_video(index: int) -> Attempt:
    """The only attempt at a video in an evaluation, given its place in the list."""
    return Attempt(epoch=0, index=index, number=0, chosen=index)


class EvalClipsDataset(Dataset[EvalSample | SkippedVideo]):
    """`num_clips` windows of 2·F frames from each video, evenly spread, every second frame taken.

    Args:
        videos: the list.
        frames: frames F per clip.
        crop_size: side S of the clips, in pixels; every crop is scaled to it.
        num_clips: clips per video.
        num_crops: crops per clip, see `square_crops`.
        ori_resolution: source pixels that the crop's side is 0.875 of, see `square_crops`.
        limits: what a video may take.
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        frames: int,
        crop_size: int,
        num_clips: int,
        num_crops: NumCrops = 1,
        ori_resolution: int | None = None,
        limits: DecodeLimits = USUAL_LIMITS,
    ) -> None:
        self.videos = videos
        self.frames = frames
        self.crop_size = crop_size
        self.num_clips = num_clips
        self.num_crops: NumCrops = num_crops
        self.ori_resolution = ori_resolution
        self.limits = limits
        self.crashed: dict[Attempt, str] = {}

    def __len__(self) -> int:
        return len(self.videos.videos)

    def __getitem__(self, index: int) -> EvalSample | SkippedVideo:
        try:
            return self.attempt(whole_video(index))
        except VideoError as error:
            path = str(self.videos.videos[index].path)
            return SkippedVideo(path=path, reason=error.reason, epoch=0, index=index)

    def attempt(self, attempt: Attempt) -> EvalSample:
        """The clips of one video.

        Raises:
            VideoError: it cannot be decoded, takes more than is allowed, or has crashed a process before.
        """
        video = self.videos.videos[attempt.chosen]
        with watched(attempt, self.crashed, video.path):
            clips = self._clips(video.path)
        return EvalSample(clips=clips, label=-1 if video.label is None else video.label, index=attempt.index)

    def _clips(self, path: Path) -> Tensor:
        window = 2 * self.frames
        with VideoReader(path) as reader:
            starts = evenly_spread_starts(reader.num_frames, window, self.num_clips)
            self.limits.check(reader, min(reader.num_frames, self.num_clips * self.frames))
            crops = square_crops(reader.width, reader.height, self.num_crops, self.ori_resolution)
            return cut_clips(reader, starts, crops, frames=self.frames, crop_size=self.crop_size)


def cut_clips(
    reader: VideoReader, starts: Sequence[int], crops: Sequence[Crop], *, frames: int, crop_size: int
) -> Tensor:
    """Cut clips out of an open video: every second frame of windows of 2·`frames` frames.

    Args:
        reader: the video.
        starts: first frames of the windows.
        crops: where the frames are cut.
        frames: frames F per clip.
        crop_size: side S that every crop is scaled to, in pixels.

    Returns:
        uint8 (len(starts)·len(crops), 3, F, S, S); the crops of a clip follow one another.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    wanted = [window_indices(start, 2 * frames, reader.num_frames)[full_positions(frames)] for start in starts]
    distinct = sorted({i for clip in wanted for i in clip})
    pixels = reader.read(distinct)
    cropped = [crop_and_resize(pixels, crop, crop_size) for crop in crops]
    row = {i: position for position, i in enumerate(distinct)}
    return torch.stack([views[:, [row[i] for i in clip]] for clip in wanted for views in cropped])


def square_crops(
    frame_width: int, frame_height: int, num_crops: NumCrops = 1, ori_resolution: int | None = None
) -> list[Crop]:
    """Where the square crops of a frame lie.

        one crop                 three crops
        +--+-----+--+        +-----+--+--+-----+
        |  |     |  |        |  0  |  1  |  2  |     side = 0.875 of the short side, centred along it
        +--+-----+--+        +-----+--+--+-----+

    Args:
        frame_width: W of the source, in pixels.
        frame_height: H of the source, in pixels.
        num_crops: 1, the centre; or 3 along the longer side: at its beginning, in its middle, at its end.
        ori_resolution: the side is 0.875 of so many source pixels, whatever the frame measures, and the whole short
            side where that is smaller; None: 0.875 of the frame's own short side.

    Returns:
        `num_crops` squares, the middle one being the single crop.
    """
    short_side = min(frame_width, frame_height)
    side = max(1, min(short_side, round(CENTRE_SHARE * (ori_resolution or short_side))))
    room_x, room_y = frame_width - side, frame_height - side
    places = [(room_x // 2, room_y // 2)]
    if num_crops == 3:
        ends = [(0, room_y // 2), (room_x, room_y // 2)]
        if frame_height > frame_width:
            ends = [(room_x // 2, 0), (room_x // 2, room_y)]
        places = [ends[0], places[0], ends[1]]
    return [Crop(left=left, top=top, width=side, height=side, flipped=False) for left, top in places]


class ListedBatches(Sampler[list[int]]):
    """Places of videos in batches, in the order that is given; every epoch is the same.

    Args:
        places: places in the list of videos.
        batch_size: videos per batch.
    """

    def __init__(self, places: Sequence[int], batch_size: int) -> None:
        self.places = places
        self.batch_size = batch_size
        self.epoch = 0
        self.start_step = 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Chooses the batch at which the next iteration begins."""
        self.epoch = epoch
        self.start_step = start_step

    def __len__(self) -> int:
        """Batches from the first one on."""
        return -(-len(self.places) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, len(self)):
            yield list(self.places[step * self.batch_size : (step + 1) * self.batch_size])


class EvalLoader:
    """Iterates over batches of evaluation clips in the order of the list; made by `build_eval_loader`."""

    def __init__(self, loader: GuardedLoader[EvalBatch]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[EvalBatch]:
        self._loader.set_epoch(0)
        return iter(self._loader)


def build_eval_loader(
    videos: VideoList,
    *,
    frames: int,
    crop_size: int,
    num_clips: int,
    batch_size: int,
    workers: int,
    num_crops: NumCrops = 1,
    ori_resolution: int | None = None,
    indices: Sequence[int] | None = None,
    limits: DecodeLimits = USUAL_LIMITS,
) -> EvalLoader:
    """Batches of evaluation clips, in the order of the list.

    A video that crashes or blocks the process that decodes it is skipped, where that is not this one.

    Args:
        videos: the list.
        frames: frames F per clip.
        crop_size: side S of the clips, in pixels.
        num_clips: clips per video.
        batch_size: videos per batch.
        workers: processes that decode; 0 decodes in this one.
        num_crops: crops per clip, see `square_crops`.
        ori_resolution: source pixels that the crop's side is 0.875 of, see `square_crops`.
        indices: places in the list of the videos that are wanted, in that order; None: all of them.
        limits: what a video may take.
    """
    dataset = EvalClipsDataset(
        videos,
        frames=frames,
        crop_size=crop_size,
        num_clips=num_clips,
        num_crops=num_crops,
        ori_resolution=ori_resolution,
        limits=limits,
    )
    no_clips = torch.empty((0, num_clips * num_crops, 3, frames, crop_size, crop_size), dtype=torch.uint8)
    batches = ListedBatches(range(len(dataset)) if indices is None else indices, batch_size)

    def start(watch: Watch) -> "DataLoader[EvalSample | SkippedVideo]":
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(handed_over, partial(_collate, no_clips)),
            worker_init_fn=partial(init_worker, watch=watch),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    seconds = limits.timeout_seconds
    return EvalLoader(GuardedLoader(dataset, batches, start, workers=workers, timeout_seconds=seconds))


def _collate(no_clips: Tensor, items: Sequence[EvalSample | SkippedVideo]) -> EvalBatch:
    """Stacks the clips of videos; `no_clips` is what an empty batch has."""
    samples = [item for item in items if isinstance(item, EvalSample)]
    return EvalBatch(
        clips=torch.stack([sample.clips for sample in samples]) if samples else no_clips,
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        index=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        skipped=[item for item in items if isinstance(item, SkippedVideo)],
    )
