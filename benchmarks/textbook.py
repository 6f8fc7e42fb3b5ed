"""I3D layer by layer as it is usually written, to measure against: the same weights, the same numbers, nothing merged.

Every layer pads its input, convolves, normalises and takes the ReLU, and every max-pool goes over a padded copy.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, max_pool3d, pad, relu

from fima.model.backbones.i3d import I3D, MIXED_CHANNELS, ConvUnit, MaxPool, Mixed


class TextbookI3D(nn.Module):
    """(B, 3, T, H, W) → (B, 1024, T/8, H/32, W/32), as `I3D` gives it.

    Args:
        network: whose weights it uses.
    """

    def __init__(self, network: I3D) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map of clips."""
        network = self.network
        features = _pooled(network.maxPool3d_2a_3x3, _unit(network.conv3d_1a_7x7, clip))
        features = _unit(network.conv3d_2c_3x3, _unit(network.conv3d_2b_1x1, features))
        features = _pooled(network.maxPool3d_3a_3x3, features)
        for name in MIXED_CHANNELS:
            if name == "mixed_4b":
                features = _pooled(network.maxPool3d_4a_3x3, features)
            if name == "mixed_5b":
                features = _pooled(network.maxPool3d_5a_2x2, features)
            block = network.get_submodule(name)
            assert isinstance(block, Mixed)
            features = _mixed(block, features)
        return features


def _unit(unit: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(unit, ConvUnit)
    convolution = unit.conv3d
    return relu(unit.batch3d(conv3d(pad(x, unit.padding), convolution.weight, stride=convolution.stride)))


def _pooled(pool: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(pool, MaxPool)
    return max_pool3d(pad(x, pool.padding), pool.kernel, pool.stride, ceil_mode=True)


def _mixed(block: Mixed, x: Tensor) -> Tensor:
    branches = [_unit(block.branch_0, x)]
    branches += [_unit(branch[1], _unit(branch[0], x)) for branch in (block.branch_1, block.branch_2)]
    branches.append(_unit(block.branch_3[1], _pooled(block.branch_3[0], x)))
    return torch.cat(branches, dim=1)
