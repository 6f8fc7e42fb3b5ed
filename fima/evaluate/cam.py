"""Where an encoder responds, as a number: the share of the activation that falls on what moves."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fima.data.clips import FULL, FrameCount, Window, evenly_spread_starts
from fima.data.datasets import Video, VideoList
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings, square_crops
from fima.errors import DataError
from fima.evaluate.activation import PATCHES, occlusion_map, upsampled
from fima.evaluate.extract import Resources, decoded_clips
from fima.evaluate.features import encode, encode_difference
from fima.evaluate.measured import Measured
from fima.evaluate.protocols import PROTOCOL_VERSIONS
from fima.method.foreground import activation_map
from fima.torch_tools.distributed import all_reduce_sum, rank, world_size

Item = TypeVar("Item")
MaskLoader = Callable[[Path], NDArray[np.bool_]]

ADAPTING_VIDEOS = 64
MEASURED_VIDEOS = 500
OCCLUDED_VIDEOS = 100
MOVING_SHARE = 0.5


def foreground_share(
    encoder: nn.Module, videos: VideoList, load_mask: MaskLoader | None, settings: ClipSettings, resources: Resources
) -> Measured:
    """Run the protocol `foreground`: which part of the activation falls on what moves, in up to 500 videos of a list.

    The maps are those of foreground sampling, on the centre crop: `share` is of the map of the RGB clip plus that of
    its frame difference, for which the batch norm's statistics are `adapted_to_differences`; `rgb_share` of the first
    alone. The encoder, in eval mode, maps normalised RGB (B, 3, F, S, S) to (B, C, t, h, w); `num_crops` does not
    count. The videos are evenly spread over the list; `batch_size` counts them. `load_mask` gives the mask (T, H, W) of
    one, if any have. With several processes, all of them call it, and each takes its share. Raises DataError where not
    one video can be decoded.
    """
    single = replace(settings, num_crops=1)
    difference_encoder, num_adapted = adapted_to_differences(encoder, videos, single, resources)

    def maps(clips: Tensor) -> list[Tensor]:
        rgb, difference = encode(encoder, clips), encode_difference(difference_encoder, clips)
        return [activation_map(rgb, difference), activation_map(rgb)]

    found = _share_of_maps(maps, ("share", "rgb_share"), videos, MEASURED_VIDEOS, load_mask, single, resources)
    described = {
        "share": "map of RGB plus map of the frame difference, each the mean over channels and time; minus its minimum",
        "rgb_share": "map of RGB alone, minus its minimum",
        "batch_norm": "running statistics for RGB; for differences, statistics measured on those of "
        f"{num_adapted} test videos, {resources.batch_size} at a time",
    }
    return replace(found, settings={"version": PROTOCOL_VERSIONS["foreground"], **found.settings, **described})


def occlusion_share(
    encoder: nn.Module, videos: VideoList, load_mask: MaskLoader | None, settings: ClipSettings, resources: Resources
) -> Measured:
    """Run the protocol `occlusion`: `foreground_share` of the `occlusion_map` of up to 100 middle clips."""
    single = replace(settings, num_crops=1, num_clips=1)

    def maps(clips: Tensor) -> list[Tensor]:
        return [occlusion_map(encoder, clips)]

    resources = replace(resources, batch_size=1)
    found = _share_of_maps(maps, ("share",), videos, OCCLUDED_VIDEOS, load_mask, single, resources)
    described = {
        "share": "map of 1 - cos(feature, feature with a grey square), minus its minimum",
        "squares": f"a quarter of the side, at {PATCHES} x {PATCHES} places, in all frames",
    }
    return replace(found, settings={"version": PROTOCOL_VERSIONS["occlusion"], **found.settings, **described})


def _share_of_maps(
    maps: Callable[[Tensor], Sequence[Tensor]],
    names: Sequence[str],
    videos: VideoList,
    most: int,
    load_mask: MaskLoader | None,
    settings: ClipSettings,
    resources: Resources,
) -> Measured:
    """Measure which part of maps, called `names`, falls on the object, where there are masks, and on what moves.

    `maps` makes them, each (B, h, w), of clips, uint8 (B, 3, F, S, S). A map is shifted so that its minimum is 0 and
    scaled so that it sums to 1; its product with the foreground is summed. The object is the mask averaged over the
    clip's frames; what moves are the `moving_pixels`, whose figures begin with `motion_`. A foreground that is in no
    clip has no figure; chance is its part of the crop, as of an even map. Each process takes its share of `most`.
    """
    foregrounds = ("", "motion_") if load_mask is not None else ("motion_",)
    # By foreground: sums over the clips that have it of each map's share and of its part of the crop, and these clips.
    sums = torch.zeros(len(foregrounds), len(names) + 2, dtype=torch.float64, device=resources.device)
    counts = torch.zeros(2, dtype=torch.float64, device=resources.device)
    own = evenly_spread(videos.videos, most)[rank() :: world_size()]
    for paths, clips in _batches(own, settings, resources):
        pixels = [moving_pixels(clips)]
        if load_mask is not None:
            masks = [clip_masks(load_mask(path), settings, path) for path in paths]
            pixels.insert(0, torch.cat(masks).to(resources.device))
        found = [upsampled(each, clips.shape[-2:]) for each in maps(clips)]
        for row, foreground in enumerate(pixels):
            there = foreground.amax(dim=(1, 2)) > 0
            parts = [_share_on(foreground, each)[there] for each in found]
            parts += [foreground.mean(dim=(1, 2))[there], there[there]]
            sums[row] += torch.stack([part.double().sum() for part in parts])
        counts += torch.tensor([len(paths), len(clips)], dtype=torch.float64, device=resources.device)
    sums, (num_videos, num_clips) = all_reduce_sum(sums), all_reduce_sum(counts).tolist()
    if not num_videos:
        raise DataError(f"{videos.root}: none of {len(videos.videos)} videos can be decoded")
    if not sums.isfinite().all():
        raise DataError(f"{videos.root}: the encoder gives NaN or infinite maps for these videos; check its weights")
    figures, chance = {}, {}
    for foreground_name, (*shares, area, num_there) in zip(foregrounds, sums.tolist(), strict=True):
        for name, share in zip(names, shares, strict=True):
            if num_there:
                figures[foreground_name + name] = 100 * share / num_there
                chance[foreground_name + name] = 100 * area / num_there
    described = {
        "motion_share": f"on the smallest part of the crop that holds {MOVING_SHARE} of the frame-difference energy",
        "num_videos": int(num_videos),
        "num_still_clips": int(num_clips - float(sums[-1, -1])),
        "clips": asdict(settings),
    }
    return Measured(figures=figures, chance=chance, settings=described)


def moving_pixels(clips: Tensor) -> Tensor:
    """Return where clips move: the smallest part of the frame that holds half of the frame-difference energy.

    The energy of a pixel is the mean of |x_t − x_(t−1)| over neighbouring frames and colours. Of uint8 clips (B, 3, F,
    S, S): float32 (B, S, S) of 0 and 1; all 0 for a clip in which nothing changes.
    """
    pixels = clips.float()
    energy = (pixels[:, :, 1:] - pixels[:, :, :-1]).abs().mean(dim=(1, 2)).flatten(1)
    ordered, places = energy.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1, dtype=torch.float64) - ordered
    needed = before < MOVING_SHARE * ordered.sum(dim=1, keepdim=True, dtype=torch.float64)
    return torch.zeros_like(energy).scatter_(1, places, needed.float()).reshape(len(clips), *clips.shape[-2:])


def evenly_spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return up to `most` of some items, evenly spread over them."""
    count = min(most, len(items))
    return [items[position * len(items) // count] for position in range(count)]


def adapted_to_differences(
    encoder: nn.Module, videos: VideoList, settings: ClipSettings, resources: Resources
) -> tuple[nn.Module, int]:
    """Return the encoder with the batch-norm statistics of frame differences, and how many videos gave them.

    In training, the differences go through the key encoder with the statistics of their batch. The query encoder has
    only ever seen RGB, so its running statistics say nothing of differences. They are measured anew on the differences
    of up to 64 videos, evenly spread over the list: the mean over batches, the same in every process. What is returned
    is a copy in eval mode; of an encoder without batch norm, itself and 0. Arguments are those of `foreground_share`.
    """
    adapted = copy.deepcopy(encoder)
    norms = [module for module in adapted.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return encoder, 0
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    num_used = 0
    for paths, clips in _batches(evenly_spread(videos.videos, ADAPTING_VIDEOS), settings, resources):
        encode_difference(adapted, clips)
        num_used += len(paths)
    return adapted.eval(), num_used


def _batches(
    videos: Sequence[Video], settings: ClipSettings, resources: Resources
) -> Iterator[tuple[list[Path], Tensor]]:
    """The clips of some videos: the paths of B videos, and their clips (B·num_clips, 3, F, S, S)."""
    paths = [video.path for video in videos]
    found = decoded_clips(paths, settings, resources)
    while batch := list(islice(found, resources.batch_size)):
        clips = torch.cat([clips.flatten(0, 1) for _, clips in batch])
        yield [paths[place] for place, _ in batch], clips.to(resources.device)


def _share_on(foreground: Tensor, maps: Tensor) -> Tensor:
    """The part of each map (B, S, S), above its minimum, that falls on the foreground (B, S, S): (B,)."""
    raised = maps - maps.amin(dim=(1, 2), keepdim=True)
    # A map that is the same everywhere has no maximum to point at; it counts as spread evenly.
    raised = torch.where(raised.amax(dim=(1, 2), keepdim=True) == 0, torch.ones_like(raised), raised)
    return (raised * foreground).sum(dim=(1, 2)) / raised.sum(dim=(1, 2))


def mask_window(mask: NDArray[np.bool_], settings: ClipSettings, path: Path) -> Window:
    """Return the window of a clip in the mask (T, H, W) of the video at a path."""
    if not settings.timing.by_rate:
        return settings.timing.window(FrameCount(len(mask)), settings.frames)
    with VideoReader(path) as video:
        return settings.timing.window(video, settings.frames)


def clip_masks(mask: NDArray[np.bool_], settings: ClipSettings, path: Path) -> Tensor:
    """Return the masks of a video's evaluation clips, cut and scaled as they are: (num_clips, S, S), means over time.

    The mask (T, H, W) is of the whole video, whose frame rate may decide which frames are in a clip.
    """
    num_frames, height, width = mask.shape
    window = mask_window(mask, settings, path)
    (crop,) = square_crops(width, height, 1, settings.ori_resolution)
    pixels = torch.from_numpy(mask)[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    starts = evenly_spread_starts(num_frames, window.reach, settings.num_clips)
    clips = torch.stack([pixels[window.indices(start)[FULL]].float().mean(dim=0) for start in starts])
    return upsampled(clips, (settings.crop_size, settings.crop_size))
