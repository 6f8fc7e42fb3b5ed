"""How much memory a training step needs: every tensor's bytes are counted while it lives; nothing is computed.

The tensors are on PyTorch's `meta` device, where they have a shape and no values, so the count holds for devices that
are not there. It is what the tensors need: an allocator takes some more, and a GPU's libraries working space of their
own. Autocast does not know that device; here convolutions and linear layers cast their inputs as it would.
"""

import argparse
import contextlib
import weakref
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fima.config import DataConfig, MethodConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig
from fima.engine.setup import PUBLISHED_LARGE_CELL_QUEUE, PUBLISHED_LARGE_QUEUE
from fima.engine.step import forward_backward
from fima.model import build_method
from step import random_batch
from study import markdown_table

GIB = 2**30
META = torch.device("meta")
IN_BFLOAT16 = (torch.conv3d, functional.linear)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that live, and their most so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.most: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count the memory of a tensor, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class CastAsAutocast(TorchFunctionMode):
    """Runs convolutions and linear layers in bfloat16."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func in IN_BFLOAT16:
            args = [arg.bfloat16() if isinstance(arg, Tensor) else arg for arg in args]
        return func(*args, **(kwargs or {}))


def peak_bytes(config: PretrainConfig) -> int:
    """Return the most bytes that live at once in the second of two steps, weights and optimiser among them."""
    batch = random_batch(config.optim.batch_size, config.data)
    cast = CastAsAutocast() if config.run.precision == "bf16" else contextlib.nullcontext()
    exact = replace(config, run=replace(config.run, precision="fp32"))
    with LiveBytes() as live, cast:
        with META:
            method = build_method(config.model, config.method).train().to(memory_format=torch.channels_last_3d)
        learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            forward_backward(method, exact, batch, META)
            optimizer.step()
    most: int = live.most
    return most


def main() -> None:
    """Print one row a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="i3d")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--crop-size", type=int, default=224)
    arguments = parser.parse_args()
    base = PretrainConfig(
        model=ModelConfig(backbone=arguments.backbone),
        method=MethodConfig(queue_size=PUBLISHED_LARGE_QUEUE, cell_queue_size=PUBLISHED_LARGE_CELL_QUEUE),
        data=DataConfig(crop_size=arguments.crop_size),
        optim=OptimConfig(batch_size=arguments.batch_size),
    )
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    rows = []
    for accumulate in (1, 2, 4, 8):
        for recompute in (False, True):
            found = []
            for precision in precisions:
                config = replace(
                    base,
                    model=replace(base.model, recompute=recompute),
                    optim=replace(base.optim, accumulate=accumulate),
                    run=RunConfig(precision=precision),
                )
                # A function mode does not reach what backward computes again.
                unknown = recompute and precision == "bf16"
                found.append("-" if unknown else f"{peak_bytes(config) / GIB:.1f}")
            rows.append([str(accumulate), "yes" if recompute else "no", *found])
    print(markdown_table(["accumulate", "recompute", *(f"{precision}, GiB" for precision in precisions)], rows))


if __name__ == "__main__":
    main()
