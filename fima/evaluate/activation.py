"""Class-agnostic activation maps over time: of one clip, and of a whole video in a stream."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fima.data.clips import FULL, Window, in_one_pass
from fima.data.eval_clips import CENTRE_SHARE
from fima.evaluate.features import encode, encode_difference
from fima.method.heads import pooled

MapKind = Literal["both", "rgb", "occlusion"]
"""`both`: the response to the RGB clip plus that to its frame difference, as in the paper; `rgb`: the first alone;
`occlusion`: how much the features of the RGB clip change when a place is covered, see `occlusion_map`."""

WINDOWS_AT_ONCE = 4
PATCHES = 8
"""Covered places along the short side of the frame; each covers twice the distance between two of them."""
GREY = 128
COVERED_AT_ONCE = 64
"""Covered clips that go through the encoder together, at most."""


@dataclass(frozen=True, kw_only=True)
class ViewEncoders:
    """An encoder for the two views whose responses add up to the map of the paper; both in eval mode."""

    rgb: nn.Module
    """(B, 3, F, H, W) normalised RGB -> (B, C, t, h, w)."""
    difference: nn.Module | None
    """The same with batch-norm statistics of frame differences; None: maps of RGB alone."""
    occlusion: bool = False
    """Whether the map is that of occlusion, of RGB alone."""


def responses(encoders: ViewEncoders, clips: Tensor) -> Tensor:
    """Return the mean over the channels of the feature maps: where, and in which temporal slice, an encoder responds.

    Of uint8 clips (B, 3, F, H, W): float32 (B, t, h, w), whose mean over t is `fima.method.foreground.activation_map`.
    Maps of occlusion have one slice: a place is covered for the whole clip.
    """
    if encoders.occlusion:
        return occlusion_map(encoders.rgb, clips)[:, None]
    found = encode(encoders.rgb, clips).mean(dim=1)
    if encoders.difference is not None:
        found = found + encode_difference(encoders.difference, clips).mean(dim=1)
    return found


def averaged_map(encoders: ViewEncoders, clips: Tensor) -> Tensor:
    """Return `responses` to uint8 clips (B, 3, F, H, W) averaged over time, upsampled bilinearly: float32 (B, H, W)."""
    return upsampled(responses(encoders, clips).mean(dim=1), clips.shape[-2:])


def upsampled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps (B, h, w), bilinearly brought to a size: (B, H, W)."""
    return functional.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def with_batch_statistics(encoder: nn.Module) -> nn.Module:
    """Return a copy whose batch norms use the statistics of each batch, as the key encoder's do in training."""
    copied = copy.deepcopy(encoder)
    for module in copied.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return copied


def activation_map(model: nn.Module, clip: Tensor, *, kind: MapKind = "both") -> Tensor:
    """Return where, and when, an encoder responds to a clip: (T, H, W) float32, interpolated in time and space.

    The model is (B, 3, T, H, W) normalised RGB -> (B, C, t, h, w), in eval mode and on the device of the clip, which is
    uint8 (3, T, H, W): the frames that the encoder sees (in training every second one of a window). `both` adds the
    response to the frame difference, as in the paper; `rgb` leaves it out; `occlusion` is the `occlusion_map`, the same
    for all frames. The difference goes through the model with the batch-norm statistics of its own: an encoder's
    running statistics are those of RGB. Raises ValueError for a clip of another type or shape.
    """
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[0] != 3:
        raise ValueError(f"clip: expected uint8 (3, T, H, W), got {clip.dtype} {tuple(clip.shape)}")
    difference = with_batch_statistics(model) if kind == "both" else None
    encoders = ViewEncoders(rgb=model, difference=difference, occlusion=kind == "occlusion")
    found = responses(encoders, clip[None])
    return functional.interpolate(found[None], size=clip.shape[1:], mode="trilinear", align_corners=False)[0, 0]


@dataclass(frozen=True, kw_only=True)
class MapTimeline:
    """The maps of a video: a small one every few frames."""

    maps: NDArray[np.float32]
    """(P, h, w), in temporal order."""
    centres: NDArray[np.float64]
    """The frame number that each map stands for, (P,), rising."""

    def at(self, frame: float) -> NDArray[np.float32]:
        """The map at a frame, (h, w), between its two neighbours in time."""
        place = np.interp(frame, self.centres, np.arange(len(self.centres)))
        lower = int(place)
        upper = min(lower + 1, len(self.maps) - 1)
        between = np.float32(place - lower)
        mixed: NDArray[np.float32] = (1 - between) * self.maps[lower] + between * self.maps[upper]
        return mixed

    @property
    def mean(self) -> NDArray[np.float32]:
        """The map averaged over the video, (h, w)."""
        return np.asarray(self.maps.mean(axis=0), dtype=np.float32)

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest value of all the maps."""
        return float(self.maps.min()), float(self.maps.max())


def map_timeline(
    encoders: ViewEncoders, frames: Iterable[NDArray[np.uint8]], *, window: Window, crop_size: int, device: torch.device
) -> MapTimeline:
    """Look at a video through windows that overlap by half, keeping two windows' frames at most, made small.

    The whole of each frame, uint8 (H, W, 3), is looked at, at the scale of an evaluation: what would be the centre crop
    is `crop_size` pixels wide. Where windows overlap, their maps are averaged. A short video is looped.
    """
    # By slice of time, the maps that lie in it, and the frame numbers that they stand for.
    bins: dict[int, list[tuple[float, NDArray[np.float32]]]] = {}
    clips = _clips(frames, window, crop_size)
    while some := list(islice(clips, WINDOWS_AT_ONCE)):
        found = responses(encoders, torch.stack([clip for _, clip in some]).to(device)).cpu().numpy()
        for (start, _), slices in zip(some, found, strict=True):
            length = window.length / len(slices)
            for number, values in enumerate(slices):
                centre = start + (number + 0.5) * length - 0.5
                bins.setdefault(int(centre // length), []).append((centre, values))
    centres = {key: np.mean([centre for centre, _ in bins[key]]) for key in sorted(bins)}
    # The slices of a looped video that lie behind its end show its beginning again.
    inside = [key for key, centre in centres.items() if centre <= window.num_frames] or list(centres)[:1]
    return MapTimeline(
        maps=np.stack([np.mean([values for _, values in bins[key]], axis=0) for key in inside]),
        centres=np.array([centres[key] for key in inside]),
    )


def _clips(frames: Iterable[NDArray[np.uint8]], window: Window, crop_size: int) -> Iterator[tuple[int, Tensor]]:
    """Clips of a window every half window, and of the last one: the first frame, and uint8 (3, F, h, w)."""
    last = max(0, window.num_frames - window.reach)
    starts = [*range(0, last, max(1, window.length // 2)), last]
    wanted = [window.indices(start)[FULL] for start in starts]
    clips = in_one_pass(frames, wanted, lambda frame: _small(frame, crop_size))
    return ((start, torch.stack(clip, dim=1)) for start, clip in zip(starts, clips, strict=True))


def _small(frame: NDArray[np.uint8], crop_size: int) -> Tensor:
    """The whole frame at the scale of an evaluation, uint8 (3, h, w); bilinear without antialiasing, as in training."""
    scale = crop_size / CENTRE_SHARE / min(frame.shape[:2])
    size = [max(1, round(side * scale)) for side in frame.shape[:2]]
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    return functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]


def occlusion_map(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return how much the features of clips change when a grey square covers a place in all frames.

    `1 − cos(f(x), f(x with the square))`, f the feature map of the RGB clip averaged over time and space; after Zeiler
    and Fergus (2014), who watch a class score in place of f. A quarter of the short side is covered at a time, at
    places an eighth of it apart. Of uint8 clips (B, 3, F, H, W), on the device of the encoder, which is in eval mode:
    float32 (B, rows, columns), of square cells as far as the frame's aspect allows.
    """
    height, width = clips.shape[-2:]
    short = min(height, width)
    rows, columns = (max(1, round(PATCHES * side / short)) for side in (height, width))
    squares = [
        (_covered(row, rows, height, short), _covered(column, columns, width, short))
        for row in range(rows)
        for column in range(columns)
    ]
    whole = pooled(encode(encoder, clips))
    at_once = max(1, COVERED_AT_ONCE // len(clips))
    changes = []
    for first in range(0, len(squares), at_once):
        some = squares[first : first + at_once]
        covered = clips.repeat(len(some), 1, 1, 1, 1)
        for part, (vertical, horizontal) in zip(covered.chunk(len(some)), some, strict=True):
            part[..., vertical, horizontal] = GREY
        found = pooled(encode(encoder, covered)).reshape(len(some), len(clips), -1)
        changes.append(1 - functional.cosine_similarity(found, whole[None], dim=2))
    return torch.cat(changes).T.reshape(len(clips), rows, columns)


def _covered(number: int, count: int, side: int, short: int) -> slice:
    """The pixels along one side that the square at place `number` of `count` covers."""
    centre, reach = (number + 0.5) * side / count, short / PATCHES
    return slice(max(0, round(centre - reach)), min(side, round(centre + reach)))
