"""Where an encoder responds, as a number: the share of the activation that falls on the moving object."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fima.data.clips import evenly_spread_starts, full_positions, window_indices
from fima.data.datasets import VideoList
from fima.data.eval_clips import build_eval_loader, square_crops
from fima.data.limits import USUAL_LIMITS, DecodeLimits
from fima.engine.distributed import all_reduce_sum, rank, world_size
from fima.errors import DataError
from fima.evaluation.features import ClipSettings, encode, encode_difference
from fima.foreground import activation_map

MaskLoader = Callable[[Path], NDArray[np.bool_]]

ADAPTING_VIDEOS = 64


@dataclass(frozen=True, kw_only=True)
class ForegroundShare:
    """How much of the activation falls on what moves; in percent, the mean over the clips of all videos."""

    share: float
    """Of the activation above each map's minimum, the part on the object; maps of RGB plus frame difference."""
    rgb_share: float
    """The same for the maps of RGB alone."""
    chance: float
    """The share of the crop that the object covers: what a map that is the same everywhere would get."""
    num_videos: int
    """Videos that were measured."""
    num_adapted: int
    """Videos whose frame differences gave the batch norm's statistics for differences; 0 without a batch norm."""


def foreground_share(
    encoder: nn.Module,
    videos: VideoList,
    load_mask: MaskLoader,
    settings: ClipSettings,
    *,
    device: torch.device,
    batch_size: int = 8,
    workers: int = 0,
    limits: DecodeLimits = USUAL_LIMITS,
) -> ForegroundShare:
    """Measure which part of the activation falls on the true foreground, on the centre crop.

    A map is shifted so that its minimum is 0 and scaled so that it sums to 1; its product with the foreground, the
    mask averaged over the clip's frames, is summed. The maps are those of foreground sampling: the map of the RGB clip
    plus that of its frame difference, for which the batch norm's statistics are `adapted_to_differences`.

    With several processes, all of them call it, and each takes its share of the videos.

    Args:
        encoder: (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), in eval mode.
        videos: the videos; those that cannot be decoded are left out and not counted.
        load_mask: from a video's path to its mask (T, H, W).
        settings: how clips are cut out of the videos; `num_crops` is not used.
        device: where the encoder is.
        batch_size: videos at a time.
        workers: processes that decode.
        limits: what a video may take.

    Raises:
        DataError: not one video can be decoded.
    """
    single = replace(settings, num_crops=1)
    difference_encoder, num_adapted = adapted_to_differences(
        encoder, videos, single, device=device, batch_size=batch_size, workers=workers, limits=limits
    )
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    own = range(rank(), len(videos.videos), world_size())
    loader = build_eval_loader(
        videos, **vars(single), batch_size=batch_size, workers=workers, indices=own, limits=limits
    )
    for batch in loader:
        if not len(batch.index):
            continue
        foreground = torch.stack([clip_masks(load_mask(videos.videos[i].path), single) for i in batch.index.tolist()])
        foreground = foreground.flatten(0, 1).to(device)
        clips = batch.clips.flatten(0, 1).to(device)
        rgb, difference = encode(encoder, clips), encode_difference(difference_encoder, clips)
        for position, features in enumerate(((rgb, difference), (rgb, None))):
            maps = _upsampled(activation_map(*features), clips.shape[-1])
            sums[position] += _share_on(foreground, maps).double().sum()
        sums[2] += foreground.double().mean(dim=(1, 2)).sum()
        sums[3] += len(batch.index)
    *totals, num_videos = all_reduce_sum(sums).tolist()
    if not num_videos:
        raise DataError(f"{videos.root}: none of {len(videos.videos)} videos can be decoded")
    share, rgb_share, chance = (100 * total / (num_videos * settings.num_clips) for total in totals)
    return ForegroundShare(
        share=share, rgb_share=rgb_share, chance=chance, num_videos=int(num_videos), num_adapted=num_adapted
    )


def adapted_to_differences(
    encoder: nn.Module,
    videos: VideoList,
    settings: ClipSettings,
    *,
    device: torch.device,
    batch_size: int = 8,
    workers: int = 0,
    limits: DecodeLimits = USUAL_LIMITS,
) -> tuple[nn.Module, int]:
    """Return the encoder with the batch-norm statistics of frame differences, in eval mode.

    In training, the differences go through the key encoder with the statistics of their batch. The query encoder has
    only ever seen RGB, so its running statistics say nothing of differences. They are measured anew on the differences
    of up to 64 videos, evenly spread over the list: the mean over batches, the same in every process.

    Args:
        encoder: (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), in eval mode; left as it is.
        videos: the videos.
        settings: how clips are cut out of them.
        device: where the encoder is.
        batch_size: videos at a time.
        workers: processes that decode.
        limits: what a video may take.

    Returns:
        The encoder and the videos that were used; the encoder itself and 0 where it has no batch norm.
    """
    adapted = copy.deepcopy(encoder)
    norms = [module for module in adapted.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return encoder, 0
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    count = min(ADAPTING_VIDEOS, len(videos.videos))
    places = [position * len(videos.videos) // count for position in range(count)]
    num_used = 0
    loader = build_eval_loader(
        videos, **vars(settings), batch_size=batch_size, workers=workers, indices=places, limits=limits
    )
    for batch in loader:
        if len(batch.index):
            encode_difference(adapted, batch.clips.flatten(0, 1).to(device))
            num_used += len(batch.index)
    return adapted.eval(), num_used


def _upsampled(maps: Tensor, size: int) -> Tensor:
    """Maps (B, h, w), bilinearly brought to (B, size, size)."""
    return functional.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def _share_on(foreground: Tensor, maps: Tensor) -> Tensor:
    """The part of each map (B, S, S), above its minimum, that falls on the foreground (B, S, S): (B,)."""
    raised = maps - maps.amin(dim=(1, 2), keepdim=True)
    # A map that is the same everywhere has no maximum to point at; it counts as spread evenly.
    raised = torch.where(raised.amax(dim=(1, 2), keepdim=True) > 0, raised, torch.ones_like(raised))
    return (raised * foreground).sum(dim=(1, 2)) / raised.sum(dim=(1, 2))


def clip_masks(mask: NDArray[np.bool_], settings: ClipSettings) -> Tensor:
    """Return the masks of the evaluation clips, cut and scaled as they are, averaged over time: (num_clips, S, S)."""
    num_frames, height, width = mask.shape
    window = 2 * settings.frames
    (crop,) = square_crops(width, height, 1, settings.ori_resolution)
    pixels = torch.from_numpy(mask)[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    clips = []
    for start in evenly_spread_starts(num_frames, window, settings.num_clips):
        indices = window_indices(start, window, num_frames)[full_positions(settings.frames)]
        clips.append(pixels[indices].float().mean(dim=0))
    size = (settings.crop_size, settings.crop_size)
    return functional.interpolate(torch.stack(clips)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
