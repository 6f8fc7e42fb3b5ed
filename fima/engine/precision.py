"""Computing in bfloat16, where it can be trusted."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode


class _ExactShortConvolutions(TorchFunctionMode):
    """Runs 3-D convolutions over fewer frames than their kernel has in float32.

    On CPUs, oneDNN's bfloat16 weight gradient of such a convolution reads memory that was never written (seen with
    torch 2.14.1: two frames and a kernel of three): it is wrong, often not finite, and at times the process crashes.
    The last layers of I3D and the ResNets are of this kind.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.conv3d and args[0].shape[2] < args[1].shape[2]:
            with torch.autocast("cpu", enabled=False):
                clip, weight, *others = args
                return func(clip.float(), weight, *others, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def autocast(device: torch.device, precision: Literal["auto", "fp32", "bf16"]) -> Iterator[None]:
    """Let networks compute in bfloat16 inside, where the precision says so.

    Args:
        device: where the networks are.
        precision: of the run, resolved.
    """
    assert precision != "auto", "resolved by the setup of a run"
    if precision == "fp32":
        yield
        return
    guard = _ExactShortConvolutions() if device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16), guard:
        yield
