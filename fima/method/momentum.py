"""The key networks: moving averages of the query networks."""

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """A copy of `network` whose parameters take no gradient."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def update_average(key: nn.Module, query: nn.Module, momentum: float) -> None:
    """`k ← m·k + (1 - m)·q` for every parameter; buffers (batch-norm statistics) stay the key network's own.

    The key network follows the trained one, of the same architecture, and is changed in place.
    """
    torch._foreach_lerp_(list(key.parameters()), list(query.parameters()), 1 - momentum)
