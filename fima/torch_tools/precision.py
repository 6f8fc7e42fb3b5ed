"""Computing in bfloat16, where it can be trusted."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

VOLUMES = 5
"""Dimensions of the weight of a 3-D convolution."""
PADDING = 4
"""Place of the padding among the arguments of `conv2d` and `conv3d`: clip, weight, bias, stride, padding."""


class _PaddedShortConvolutions(TorchFunctionMode):
    """Gives convolutions over fewer frames than their kernel has their zeros as frames of the clip.

    On CPUs, oneDNN's bfloat16 weight gradient of such a convolution reads memory that was never written (seen with
    torch 2.14.1: two frames and a kernel of three): it is wrong, often not finite, and at times the process crashes.
    The last layers of I3D and the ResNets are of this kind, and those of `Small`, whose frames are rows of pictures.
    With the padding outside, there are frames enough.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func not in (torch.conv2d, torch.conv3d) or args[0].shape[2] >= args[1].shape[2]:
            return func(*args, **(kwargs or {}))
        clip, weight, *others = args
        if len(args) > PADDING and isinstance(args[PADDING], tuple):
            frames, *sides = args[PADDING]
            others[PADDING - 2] = (0, *sides)
            around = [0, 0] * len(sides) + [frames, frames]
            return func(pad(clip, around), weight, *others, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(clip.float(), weight.float(), *others, **(kwargs or {}))


@contextlib.contextmanager
def autocast(device: torch.device, precision: Literal["auto", "fp32", "bf16"]) -> Iterator[None]:
    """Let networks on a device compute in bfloat16 inside, where the precision of the run, resolved, says so."""
    assert precision != "auto", "resolved by the setup of a run"
    if precision == "fp32":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16), guard(device):
        yield


def memory_format(
    setting: Literal["auto", "contiguous", "channels_last"],
    precision: Literal["auto", "fp32", "bf16"],
    device: torch.device,
) -> torch.memory_format:
    """Return how weights and feature maps lie in memory; `auto` is exact in fp32 on CPUs (benchmarks/exactness.py)."""
    assert precision != "auto", "resolved by the setup of a run"
    exact = precision == "fp32" and device.type == "cpu"
    if setting == "contiguous" or (setting == "auto" and exact):
        return torch.contiguous_format
    return torch.channels_last_3d


def lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Give the weights of 3-D convolutions a layout in memory; others, which a backbone of a plug-in may have, stay."""
    for weight in network.parameters():
        if weight.ndim == VOLUMES:
            weight.data = weight.data.contiguous(memory_format=layout)


def guard(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context without which bfloat16 cannot be trusted on a device."""
    return _PaddedShortConvolutions() if device.type == "cpu" else contextlib.nullcontext()


def as_computed(x: torch.Tensor) -> torch.Tensor:
    """`x`, any shape, in the type to which autocast takes a network's input; as it is where autocast is off."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which autocast changes nothing; one that an exported graph does not see, where it is off."""
    available = torch.amp.is_autocast_available(device.type)
    if available and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
