"""I3D (Carreira & Zisserman, 2017): Inception-v1 inflated to 3-D, with TensorFlow's SAME padding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, linear, max_pool3d, pad, relu

from fima.backbones.base import Backbone
from fima.backbones.cpu_layout import largest_neighbour, pixels_in_blocks, weight_in_blocks
from fima.torch_tools.precision import without_autocast

Size3 = tuple[int, int, int]

MIXED_CHANNELS = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Output channels of each Inception block: branch 0; branch 1, two layers; branch 2, two layers; branch 3."""


def same_padding(kernel: Size3, stride: Size3) -> list[int]:
    """TensorFlow's SAME padding for sizes that the stride divides, in the order `torch.nn.functional.pad` takes it.

    `kernel - stride` in all, the smaller half before: where the two halves differ, the padding is asymmetric.
    """
    padding: list[int] = []
    for kernel_size, step in zip(reversed(kernel), reversed(stride), strict=True):
        total = max(kernel_size - step, 0)
        padding += [total // 2, total - total // 2]
    return padding


class ConvUnit(nn.Module):
    """Convolution without bias (a cubic kernel, a stride in time and space), batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.padding = same_padding((kernel,) * 3, (stride,) * 3)
        self.symmetric = self.padding[0] == self.padding[1]
        inner_padding = self.padding[0] if self.symmetric else 0
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, inner_padding, bias=False)
        self.pointwise = kernel == stride == 1
        self.in_blocks = (in_channels, kernel, stride) == (3, 7, 2)
        self.batch3d = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, H, W) → (B, out, T/stride, H/stride, W/stride)."""
        return relu(self.before_relu(x), inplace=True)

    def before_relu(self, x: Tensor) -> Tensor:
        """The same without the ReLU, which a max-pool may go before, so that it has less to do."""
        normalised: Tensor = self.batch3d(self._convolved(x))
        return normalised

    def _convolved(self, x: Tensor) -> Tensor:
        weight = self.conv3d.weight
        if self.pointwise and x.is_contiguous(memory_format=torch.channels_last_3d):
            # On one CPU thread a convolution of this size would lose the memory format, for all layers after it.
            return linear(x.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)
        is_even = all(size % 2 == 0 for size in x.shape[2:])
        if self.in_blocks and is_even and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # bfloat16 multiplies 32 channels at a time: three of them would leave most of the unit idle.
            return conv3d(pixels_in_blocks(x, torch.get_autocast_dtype("cpu")), weight_in_blocks(weight))
        features: Tensor = self.conv3d(x if self.symmetric else pad(x, self.padding))
        return features


class MaxPool(nn.Module):
    """Max-pooling with SAME padding, of a ReLU's output or of what a ReLU comes after: zeros then change nothing."""

    def __init__(self, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.padding = same_padding(kernel, stride)
        self.is_symmetric = self.padding[::2] == self.padding[1::2]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → the same divided by the strides, rounded up."""
        # Autocast would take it to float32, and all that comes after it back: the largest of some numbers is exact.
        with without_autocast(x.device):
            if self.is_symmetric:
                # The compiler cannot follow results that are written into parts of tensors: it would give up.
                is_plain = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
                if self.kernel == (3, 3, 3) and x.device.type == "cpu" and is_plain:
                    return largest_neighbour(x)
                before = self.padding[::-2]
                return max_pool3d(x, self.kernel, self.stride, (before[0], before[1], before[2]), ceil_mode=True)
            if any(size % step for size, step in zip(x.shape[2:], self.stride, strict=True)):
                x = pad(x, self.padding)
            # Of sizes that the stride divides, `ceil_mode` leaves out of the last window what would be padding.
            return max_pool3d(x, self.kernel, self.stride, ceil_mode=True)


class Mixed(nn.Module):
    """Inception block of four branches; its outputs are a value of `MIXED_CHANNELS`."""

    def __init__(self, in_channels: int, out_channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, two_in, two, three_in, three, four = out_channels
        self.branch_0 = ConvUnit(in_channels, one)
        self.branch_1 = nn.Sequential(ConvUnit(in_channels, two_in), ConvUnit(two_in, two, kernel=3))
        self.branch_2 = nn.Sequential(ConvUnit(in_channels, three_in), ConvUnit(three_in, three, kernel=3))
        self.branch_3 = nn.Sequential(MaxPool((3, 3, 3), (1, 1, 1)), ConvUnit(in_channels, four))
        self.out_channels = one + two + three + four

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, H, W) → (B, out, T, H, W)."""
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


class I3D(Backbone):
    """The convolutional part of I3D: (B, 3, T, H, W) → (B, 1024, T/8, H/32, W/32)."""

    num_features = 1024
    takes_bfloat16 = True

    def __init__(self) -> None:
        super().__init__()
        self.conv3d_1a_7x7 = ConvUnit(3, 64, kernel=7, stride=2)
        self.maxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.conv3d_2b_1x1 = ConvUnit(64, 64)
        self.conv3d_2c_3x3 = ConvUnit(64, 192, kernel=3)
        self.maxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.maxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))
        self.maxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))
        channels = 192
        for name, out_channels in MIXED_CHANNELS.items():
            block = Mixed(channels, out_channels)
            self.add_module(name, block)
            channels = block.out_channels
        self.stages = {"mixed_3c": 480, "mixed_4f": 832, "mixed_5c": 1024}

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, 1024, t, h, w) of clips (B, 3, T, H, W)."""
        features = relu(self.maxPool3d_2a_3x3(self.conv3d_1a_7x7.before_relu(clip)), inplace=True)
        features = self.conv3d_2c_3x3.before_relu(self.conv3d_2b_1x1(features))
        features = relu(self.maxPool3d_3a_3x3(features), inplace=True)
        for name in MIXED_CHANNELS:
            if name == "mixed_4b":
                features = self.maxPool3d_4a_3x3(features)
            if name == "mixed_5b":
                features = self.maxPool3d_5a_2x2(features)
            features = self.get_submodule(name)(features)
        result: Tensor = features
        return result
