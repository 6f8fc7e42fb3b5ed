"""Pooled features of evenly spread clips: what they are, and how a list's are had in one call."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.data.augment import MEAN, STD
from fima.data.loader import SkippedVideo
from fima.method.motion import frame_difference

DIFFERENCE_CELLS = 8


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What turns clips into feature vectors."""

    name: str
    """Identifies the weights; part of the cache's key."""
    pool: Callable[[Tensor], Tensor]
    """uint8 clips (B, 3, F, S, S) -> float32 features (B, C), on the same device."""


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


def encoder_source(encoder: nn.Module, name: str) -> FeatureSource:
    """Features are an encoder's feature map, averaged over time and space.

    Args:
        encoder: (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), in eval mode.
        name: identifies the weights, such as a hash of the checkpoint.
    """
    return FeatureSource(name=name, pool=lambda clips: encode(encoder, clips).mean(dim=(2, 3, 4)))


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
