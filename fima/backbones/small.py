"""A narrow R(2+1)D that sees motion, for CPUs and small sets of videos."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.backbones.base import Backbone
from fima.torch_tools.precision import without_autocast

WIDTHS = (16, 24, 48, 96, 192)
"""Channels of the stem and of the four blocks."""
STRIDES = ((1, 2), (2, 2), (2, 2), (1, 1))
"""(time, space) of the four blocks; the stem halves the picture before them."""
LUMA = (0.299, 0.587, 0.114)
NOISE_FLOOR = 0.02
"""Root mean square, in normalised luma, below which a motion channel counts as noise and stays small."""
LIMIT = 6.0
"""Largest value of a motion channel, in units of its root mean square over the clip."""


class MotionStem(nn.Module):
    """What moves in a clip: luma minus that of the frame before, and luma minus its mean over the clip.

    Each of the two channels is brought to unit power per clip. A clip of one repeated frame gives zeros, whatever it
    shows. No weights.
    """

    def forward(self, clip: Tensor) -> Tensor:
        """Motion channels (B, 2, T, H, W) of normalised clips (B, 3, T, H, W), T at least 1, in float32 or wider."""
        # Differences of pixels in half precision would lose their bits.
        with without_autocast(clip.device):
            clip = clip.float() if clip.dtype in (torch.float16, torch.bfloat16) else clip
            red, green, blue = (share * clip[:, i : i + 1] for i, share in enumerate(LUMA))
            luma = red + green + blue
            following = luma[:, :, 1:] - luma[:, :, :-1]
            # The first frame has none before it, and shows the difference to the second one.
            first = following[:, :, :1] if luma.shape[2] > 1 else torch.zeros_like(luma)
            step = torch.cat([first, following], dim=2)
            # By way of the first frame, so that a still clip gives zeros to the last bit.
            from_first = luma - luma[:, :, :1]
            from_mean = from_first - from_first.mean(dim=2, keepdim=True)
            motion = torch.cat([_unit_power(step), _unit_power(from_mean)], dim=1)
            # All layers after it keep this layout, in which their two-dimensional views need no copy.
            return motion.contiguous(memory_format=torch.channels_last_3d)


def _unit_power(channel: Tensor) -> Tensor:
    power = channel.square().mean(dim=(1, 2, 3, 4), keepdim=True)
    return (channel * (power + NOISE_FLOOR**2).rsqrt()).clamp(-LIMIT, LIMIT)


def _by_frame(clip: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A two-dimensional operation on each frame: (B, C, T, H, W) → (B, C', T, H', W')."""
    changed = change(clip.transpose(1, 2).flatten(0, 1))
    return changed.view(clip.shape[0], clip.shape[2], *changed.shape[1:]).transpose(1, 2)


def _by_place(clip: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A two-dimensional operation on times and places (B, C, T, H·W): (B, C, T, H, W) → (B, C', T', H, W)."""
    changed = change(clip.flatten(3))
    return changed.view(*changed.shape[:3], *clip.shape[3:])


class Space(nn.Conv3d):
    """A convolution of each frame, computed as a two-dimensional one: on CPUs that takes half of the time."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        padding = (0, kernel // 2, kernel // 2)
        super().__init__(in_channels, out_channels, (1, kernel, kernel), (1, stride, stride), padding, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C', T, H', W')."""
        weight, stride, padding = self.weight[:, :, 0], self.stride[1:], self.padding[1:]
        return _by_frame(clip, lambda frames: functional.conv2d(frames, weight, stride=stride, padding=padding))


class Time(nn.Conv3d):
    """A convolution of three frames at each place, computed as a two-dimensional one, like `Space`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C', T', H, W)."""
        weight, stride, padding = self.weight[..., 0], self.stride[:2], self.padding[:2]
        return _by_place(clip, lambda places: functional.conv2d(places, weight, stride=stride, padding=padding))


class Average(nn.Module):
    """Means over blocks of a feature map; at its end, over what is left of it.

    Args:
        time: frames of a block.
        space: side of a block.
    """

    def __init__(self, time: int, space: int) -> None:
        super().__init__()
        self.frame = nn.AvgPool2d(space, ceil_mode=True) if space > 1 else None
        self.place = nn.AvgPool2d((time, 1), ceil_mode=True) if time > 1 else None

    def forward(self, clip: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C, T', H', W')."""
        clip = clip if self.frame is None else _by_frame(clip, self.frame)
        return clip if self.place is None else _by_place(clip, self.place)


def _normalised(convolution: nn.Conv3d) -> list[nn.Module]:
    """A convolution and its batch norm."""
    return [convolution, nn.BatchNorm3d(convolution.out_channels)]


class Block(nn.Module):
    """A residual block of two (2+1)D convolutions: space, time, space, time, with a stride of (time, space).

    Its shortcut averages before it strides.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        time, space = stride
        self.body = nn.Sequential(
            *_normalised(Space(in_channels, out_channels, stride=space)),
            nn.ReLU(inplace=True),
            *_normalised(Time(out_channels, out_channels, time)),
            nn.ReLU(inplace=True),
            *_normalised(Space(out_channels, out_channels)),
            nn.ReLU(inplace=True),
            *_normalised(Time(out_channels, out_channels)),
        )
        self.shortcut = nn.Sequential(Average(time, space), *_normalised(Space(in_channels, out_channels, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, out_channels, t, h, w) of features (B, in_channels, T, H, W)."""
        return functional.relu(self.body(features) + self.shortcut(features))


class Small(Backbone):
    """(B, 3, T, H, W) → (B, 192, T/4, H/16, W/16), 1 M parameters.

    Residual (2+1)D convolutions (Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018) with shortcuts
    that average (He et al., "Bag of Tricks", CVPR 2019), on differences of frames as in the motion stream of TSN (Wang
    et al., ECCV 2016). On a few hundred real videos, a network of this size that sees the frames themselves does not
    find motion that is a small part of the picture, with or without labels (docs/experiments.md).
    """

    num_features = WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.motion = MotionStem()
        width = WIDTHS[0]
        self.stem = nn.Sequential(
            *_normalised(Space(2, width, 5, 2)),
            nn.ReLU(inplace=True),
            *_normalised(Time(width, width)),
            nn.ReLU(inplace=True),
        )
        pairs = zip(pairwise(WIDTHS), STRIDES, strict=True)
        self.blocks = nn.Sequential(*(Block(*channels, stride) for channels, stride in pairs))
        self.stages = dict(zip(("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"), WIDTHS, strict=True))

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, 192, t, h, w) of clips (B, 3, T, H, W)."""
        # The motion is in float32 also where all weights are in half precision.
        motion = self.motion(clip).to(self.stem[0].weight.dtype)
        features: Tensor = self.blocks(self.stem(motion))
        return features
