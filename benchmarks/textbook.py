"""What steps are measured against: networks as they are usually written, in a process as PyTorch comes.

I3D layer by layer, with the same weights and numbers and nothing merged: every layer pads its input, convolves,
normalises and takes the ReLU, and every max-pool goes over a padded copy.
"""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, max_pool3d, pad, relu
from torchvision.models import video

from fima.backbones.i3d import I3D, MIXED_CHANNELS, ConvUnit, MaxPool, Mixed
from fima.backbones.registry import build_backbone

FRAMES, CROP_PX = 16, 112


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


def plain_forward(backbone: str, batch_size: int) -> Callable[[], object]:
    """The forward pass that is u."""
    network: nn.Module = plain_backbone(backbone).train()
    if isinstance(network, I3D):
        network = TextbookI3D(network)
    clips = torch.randn(batch_size, 3, FRAMES, CROP_PX, CROP_PX)

    def forward() -> None:
        with torch.no_grad():
            network(clips)

    return forward


def plain_backbone(backbone: str) -> nn.Module:
    """The backbone without what we have done to it: torchvision's own network, or our weights of I3D."""
    return build_backbone(backbone) if backbone == "i3d" else getattr(video, backbone)(weights=None)


class PlainProcess:
    """A process that knows nothing of our settings, and takes the time of u when it is asked to.

    Args:
        backbone: whose forward pass it is.
        batch_size: clips.
    """

    def __init__(self, backbone: str, batch_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = (other, backbone, batch_size, torch.get_num_threads())
        self._process = context.Process(target=_answer, args=arguments, daemon=True)
        self._process.start()

    def seconds(self) -> float:
        """How long one forward pass takes there, while this process waits."""
        self._connection.send(None)
        taken: float = self._connection.recv()
        return taken

    def end(self) -> None:
        """Stop the process."""
        self._process.terminate()
        self._process.join()


def _answer(connection: Connection, backbone: str, batch_size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    forward = plain_forward(backbone, batch_size)
    while True:
        connection.recv()
        start = time.perf_counter()
        forward()
        connection.send(time.perf_counter() - start)
