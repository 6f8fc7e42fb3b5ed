"""The 3-D convolution of the backbones: PyTorch's, which takes Winograd's way where that is faster."""

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from fima.backbones import winograd

LEAST_CHANNELS = 48
"""Of input and output: with fewer, what is saved is less than what the transforms cost."""
LEAST_TILES = 100
"""Of a batch: with fewer, the transforms of the weight cost more than is saved."""
LEAST_TILES_KEPT = 48
"""The same where a transformed weight is kept for several passes."""

HAS_MKL: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
"""Whether there is the library of batched matrix products with which Winograd's way was measured."""


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`, with the same arguments, weights and state."""

    prepared: Tensor | None = None
    """The transformed weight, once a pass inside `weights_transformed_once` has needed it."""
    keeps_prepared = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T', H', W')."""
        if not self._is_for_winograd(x):
            return super().forward(x)
        if self.keeps_prepared and self.prepared is None:
            self.prepared = winograd.prepare(self.weight)
        return winograd.convolve(x, self.weight, self.prepared)

    @property
    def has_form(self) -> bool:
        """Whether kernel, stride, padding and channels are such that Winograd's way can be faster."""
        frames, *sides = self.kernel_size
        return (
            sides == [3, 3]
            and frames in (1, 3)
            and self.padding == (frames // 2, 1, 1)
            and self.stride == self.dilation == (1, 1, 1)
            and self.padding_mode == "zeros"
            and self.groups == 1
            and self.bias is None
            and min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
        )

    def _is_for_winograd(self, x: Tensor) -> bool:
        if not (self.has_form and HAS_MKL) or _is_recorded():
            return False
        if x.device.type != "cpu" or not x.dtype == self.weight.dtype == torch.float32:
            return False
        # What does not fit is left to PyTorch, which takes single clips, and says what is wrong with others.
        if torch.is_autocast_enabled("cpu") or x.dim() != 5 or x.shape[1] != self.in_channels:
            return False
        return winograd.num_tiles(x.shape) >= (LEAST_TILES_KEPT if self.keeps_prepared else LEAST_TILES)


def _is_recorded() -> bool:
    """Whether a compiler or an exporter is looking, which is to see the convolution itself."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def with_fast_convolutions(network: nn.Module) -> None:
    """Replace the convolutions inside a network, whose weights stay, by `Conv3d`, where that can be faster."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv3d):
            fast = Conv3d(
                module.in_channels,
                module.out_channels,
                cast(tuple[int, int, int], module.kernel_size),
                cast(tuple[int, int, int], module.stride),
                cast(tuple[int, int, int], module.padding),
                cast(tuple[int, int, int], module.dilation),
                module.groups,
                module.bias is not None,
                module.padding_mode,
                device="meta",
            ).train(module.training)
            if fast.has_form:
                fast.weight = module.weight
                network.set_submodule(name, fast)


@contextlib.contextmanager
def weights_transformed_once(network: nn.Module) -> Iterator[None]:
    """Transform weights that need it once for all passes inside.

    Args:
        network: one that takes no gradient, and is not changed inside.
    """
    layers = [module for module in network.modules() if isinstance(module, Conv3d)]
    assert not any(layer.weight.requires_grad for layer in layers), "its gradient would not reach the weight"
    try:
        for layer in layers:
            layer.keeps_prepared = True
        yield
    finally:
        for layer in layers:
            layer.keeps_prepared, layer.prepared = False, None
