"""Activation checkpointing: an encoder keeps its input alone, and computes the rest again when backward needs it."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fima.torch_tools.precision import guard


def recomputed(encoder: nn.Module, clip: Tensor) -> Tensor:
    """`encoder(clip)`, whose activations are computed again backward; values, gradients and statistics are the same."""
    kind = clip.device.type
    in_bfloat16 = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _again(encoder, clip.device, in_bfloat16)

    features: Tensor = checkpoint(encoder, clip, use_reentrant=False, context_fn=contexts)
    return features


@contextlib.contextmanager
def _again(encoder: nn.Module, device: torch.device, in_bfloat16: bool) -> Iterator[None]:
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    before = [(module.momentum, module.num_batches_tracked) for module in norms]
    for module in norms:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        # Backward runs outside of the step's autocast; `checkpoint` restores that, but not what comes with it.
        with guard(device) if in_bfloat16 else contextlib.nullcontext():
            yield
    finally:
        for module, (momentum, count) in zip(norms, before, strict=True):
            module.momentum, module.num_batches_tracked = momentum, count
