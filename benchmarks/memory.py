"""How much memory a training step needs: every tensor's bytes are counted while it lives; nothing is computed.

The tensors are on PyTorch's `meta` device, where they have a shape and no values, so the count holds for devices that
are not there. It is what the tensors need: an allocator takes some more, and a GPU's libraries working space of their
own. Autocast does not know that device; here convolutions and linear layers cast their inputs as it would.

Beside each count stands the formula `fixed + videos of a part · F · S² · bytes a pixel`. `fixed` is weights, gradients,
momentum, moving averages and queues, from their shapes; the bytes a pixel are how much larger a part of eight videos is
than one of four.
"""

import argparse
import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fima.benchmark.steps import random_batch
from fima.config import DataConfig, MethodConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig
from fima.method.fima import FIMA
from fima.train.pretrain import pretrain_step
from fima.train.resolve import PUBLISHED_LARGE_CELL_QUEUE, PUBLISHED_LARGE_QUEUE
from tables import markdown_table

GIB = 2**30
META = torch.device("meta")
IN_BFLOAT16 = (torch.conv3d, functional.linear)
FEW_VIDEOS, MORE_VIDEOS = 4, 8
ACCUMULATE = (1, 2, 4, 8)
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


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
            if isinstance(leaf, Tensor) and leaf.is_meta:  # not what waits on the host
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


@contextlib.contextmanager
def casts(method: FIMA, precision: str) -> Iterator[None]:
    """Cast as autocast would, also where backward calls the query encoder again, which a mode outside does not see."""
    if precision == "fp32":
        yield
        return
    inner = method.query_encoder.forward

    def forward(clip: Tensor) -> Tensor:
        with CastAsAutocast():
            features: Tensor = inner(clip)
        return features

    method.query_encoder.forward = forward
    with CastAsAutocast():
        yield


def build_on_meta(config: PretrainConfig) -> tuple[FIMA, torch.optim.SGD]:
    """Build the networks and an optimiser that has its momentum already, as in all steps but the first."""
    with META:
        method = FIMA(config.model, config.method).train().to(memory_format=torch.channels_last_3d)
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    for parameter in learning:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return method, optimizer


def fixed_bytes(config: PretrainConfig) -> int:
    """Return what a step holds whatever the batch: weights, gradients, momentum, moving averages, and queues.

    Of the queues there is a copy, in which a step's losses find them as they were.
    """
    method, _ = build_on_meta(config)
    learning = sum(weight.numel() for weight in method.parameters() if weight.requires_grad)
    following = sum(weight.numel() for weight in method.parameters() if not weight.requires_grad)
    return 4 * (3 * learning + following + 2 * sum(queue.keys.numel() for queue in method.queues.values()))


def peak_bytes(config: PretrainConfig, change: Callable[[FIMA], None] | None = None) -> int:
    """Return the most bytes that live at once in a step, weights and optimiser among them.

    All parts but the first are alike, so of many only two are looked at.

    Args:
        config: the settings.
        change: changes the networks before they are used.
    """
    optim = config.optim
    if optim.accumulate > 2:
        optim = replace(optim, batch_size=2 * optim.batch_size // optim.accumulate, accumulate=2)
    batch = random_batch(optim.batch_size, config.data, noise=False)
    exact = replace(config, optim=optim, run=replace(config.run, precision="fp32"))
    with LiveBytes() as live:
        method, optimizer = build_on_meta(config)
        if change is not None:
            change(method)
        with casts(method, config.run.precision):
            pretrain_step(method, exact, batch, META)
        optimizer.step()
    most: int = live.most
    return most


def pixels(config: PretrainConfig) -> int:
    """Return the pixels F·S² of a clip, times the videos of a part."""
    videos = -(-config.optim.batch_size // config.optim.accumulate)
    return videos * config.data.frames * config.data.crop_size**2


def bytes_a_pixel(config: PretrainConfig) -> float:
    """Return the bytes that each pixel of a part adds."""
    few, more = (
        replace(config, optim=replace(config.optim, batch_size=videos, accumulate=1))
        for videos in (FEW_VIDEOS, MORE_VIDEOS)
    )
    return (peak_bytes(more) - peak_bytes(few)) / (pixels(more) - pixels(few))


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
    fixed = fixed_bytes(base)
    print(f"fixed {fixed / GIB:.2f} GiB; bytes a pixel:")
    rows = []
    for recompute in (False, True):
        found: dict[int, list[str]] = {accumulate: [] for accumulate in ACCUMULATE}
        for precision in PRECISIONS:
            config = replace(base, model=replace(base.model, recompute=recompute), run=RunConfig(precision=precision))
            each = bytes_a_pixel(config)
            print(f"  {precision}{', recompute' if recompute else ''}: {each:.0f}", flush=True)
            for accumulate, row in found.items():
                part = replace(config, optim=replace(config.optim, accumulate=accumulate))
                formula = fixed + each * pixels(part)
                row += [f"{peak_bytes(part) / GIB:.1f}", f"{formula / GIB:.1f}"]
        rows += [[str(accumulate), "yes" if recompute else "no", *row] for accumulate, row in found.items()]
    header = [f"{precision}, {what}" for precision in PRECISIONS for what in ("GiB", "by the formula")]
    print(markdown_table(["accumulate", "recompute", *header], rows))


if __name__ == "__main__":
    main()
