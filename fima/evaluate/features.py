"""Pooled features of evenly spread clips: what they are, and how a list's are had in one call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.data.augment import MEAN, STD
from fima.data.loader import SkippedVideo
from fima.evaluate.protocols import parts_of
from fima.method.motion import frame_difference

DIFFERENCE_CELLS = 8
PLAIN = "rgb:avg"
PART_WIDTHS = {"avg": 1, "max": 1, "grid": 8}
"""Columns of a part, in channels of the feature map."""


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What turns clips into feature vectors."""

    name: str
    """Identifies the weights; part of the cache's key."""
    pool: Callable[[Tensor], Tensor]
    """uint8 clips (B, 3, F, S, S) -> float32 features (B, C), on the same device."""
    parts: tuple[str, ...] = (PLAIN,)
    """What the columns are, in order: parts of `parts_of`, each as wide as `PART_WIDTHS` says."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the videos that can be decoded, in the order of the list."""

    pooled: Tensor
    """(V, num_clips·num_crops, C), float32; the crops of a clip follow one another."""
    labels: Tensor
    """(V,) class numbers; -1 where unknown."""
    paths: list[str]
    """The V files."""
    undecodable: list[SkippedVideo]
    """The other files of the list."""
    parts: tuple[str, ...] = (PLAIN,)
    """What the columns are, as in `FeatureSource`."""

    def rows(self, places: Sequence[int]) -> "Features":
        """Some of the videos, in another order."""
        chosen = torch.tensor(places)
        paths = [self.paths[place] for place in places]
        return replace(self, pooled=self.pooled[chosen], labels=self.labels[chosen], paths=paths)

    def columns(self, features: str) -> Tensor:
        """The columns of some features such as `both:avg`, (V, num_clips·num_crops, C)."""
        widths = [PART_WIDTHS[part.rpartition(":")[2]] for part in self.parts]
        channels = self.pooled.shape[-1] // sum(widths)
        found = dict(
            zip(self.parts, torch.split(self.pooled, [width * channels for width in widths], dim=-1), strict=True)
        )
        wanted = [found[part] for part in parts_of(features)]
        return wanted[0] if len(wanted) == 1 else torch.cat(wanted, dim=-1)

    @property
    def per_video(self) -> Tensor:
        """The mean over the clips and their crops, (V, C)."""
        return self.pooled.mean(dim=1)


def normalised(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1], (B, 3, F, S, S), as encoders see them: minus the mean, by the standard deviation."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1, 1) for values in (MEAN, STD))
    return (pixels - mean).div_(std)


def encode(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return the feature map (B, C, t, h, w) of uint8 clips (B, 3, F, S, S), without gradients."""
    with torch.inference_mode():
        features: Tensor = encoder(normalised(clips.float().div_(255)))
    return features.float()


def encode_difference(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return the feature map (B, C, t, h, w) of the frame differences of uint8 clips (B, 3, F, S, S), as `encode`."""
    with torch.inference_mode():
        features: Tensor = encoder(normalised(frame_difference(clips.float() / 255)))
    return features.float()


def encoder_source(encoder: nn.Module, name: str, features: Sequence[str] = ("avg",)) -> FeatureSource:
    """Features are an encoder's feature map, pooled over time and space.

    Frame differences go through the encoder with its running statistics, as the RGB clips do.

    Args:
        encoder: (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), in eval mode.
        name: identifies the weights, such as a hash of the checkpoint.
        features: what is wanted, as `--features` takes it; one pass gives all of it.
    """
    parts = tuple(dict.fromkeys(part for each in features for part in parts_of(each)))
    streams = {"rgb": encode, "difference": encode_difference}
    used = {stream: run for stream, run in streams.items() if any(part.startswith(stream) for part in parts)}

    def pool(clips: Tensor) -> Tensor:
        maps = {stream: run(encoder, clips) for stream, run in used.items()}
        return torch.cat([pooled_part(maps[part.partition(":")[0]], part.partition(":")[2]) for part in parts], dim=1)

    return FeatureSource(name=name if parts == (PLAIN,) else f"{name}, {' '.join(parts)}", pool=pool, parts=parts)


def pooled_part(feature_map: Tensor, pool: str) -> Tensor:
    """Return what `avg`, `max` or `grid` makes of feature maps (B, C, t, h, w): (B, C), of a grid (B, C·8)."""
    match pool:
        case "avg":
            return feature_map.mean(dim=(2, 3, 4))
        case "max":
            return feature_map.amax(dim=(2, 3, 4))
        case _:
            return functional.adaptive_avg_pool3d(feature_map, 2).flatten(1)


def raw_difference_features(clips: Tensor) -> Tensor:
    """Features without an encoder: absolute differences of neighbouring frames, pooled.

    Args:
        clips: uint8 (B, 3, F, S, S).

    Returns:
        (B, (F - 1) · 65): for each pair of frames the mean over the colours, averaged in an 8 x 8 grid, then over the
        whole frame.
    """
    difference = (clips[:, :, 1:].float() - clips[:, :, :-1].float()).abs().mean(dim=1).div_(255)
    grid = functional.adaptive_avg_pool2d(difference, DIFFERENCE_CELLS)
    return torch.cat([grid.flatten(1), difference.mean(dim=(2, 3))], dim=1)


RAW_DIFFERENCE = FeatureSource(
    name=f"raw frame differences, {DIFFERENCE_CELLS}x{DIFFERENCE_CELLS} grid", pool=raw_difference_features
)
