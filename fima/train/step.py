"""One optimiser step: forward and backward; in parts where the memory is too small for the whole batch."""

import contextlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fima.config import MethodConfig, PretrainConfig
from fima.data.augment import make_inputs
from fima.data.loader import PretrainBatch
from fima.errors import TrainingError
from fima.method.inputs import StepLosses
from fima.torch_tools.precision import autocast
from fima.train.health import spread

NAMED_VIDEOS = 8


class NotFiniteError(TrainingError):
    """A loss that is not finite; the message names the parts and the videos.

    Args:
        parts: the parts of the loss and their values, in words.
        paths: videos of the batch.
    """

    def __init__(self, parts: str, paths: list[str]) -> None:
        more = len(paths) - NAMED_VIDEOS
        names = ", ".join(paths[:NAMED_VIDEOS]) + (f" and {more} more, listed in metrics.jsonl" if more > 0 else "")
        super().__init__(f"the loss is not finite ({parts}); videos of the batch: {names}")
        self.paths = paths


class Measured:
    """What a step has measured, on its way from the device; nobody waits for it until it is read.

    Args:
        values: device scalars by name: `loss`, each part of it, each statistic.
        beside: more of them.
        parts: which of the values are parts of the loss.
        batch: the videos.
    """

    def __init__(
        self, values: Mapping[str, Tensor], beside: Mapping[str, Tensor], parts: list[str], batch: PretrainBatch
    ) -> None:
        self.paths, self.skipped = batch.paths, batch.skipped
        self._names, self._num_values, self._parts = [*values, *beside], len(values), parts
        numbers = torch.stack([value.float() for value in (*values.values(), *beside.values())])
        self.not_finite = (~numbers[0].isfinite()).float()
        """1 where the loss is not finite, else 0; a device scalar for the optimiser, which then changes no weight."""
        self._numbers, self._arrived = numbers, None
        if numbers.device.type == "cuda":
            self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Wait for the step, and return its values and what was measured beside.

        Raises:
            NotFiniteError: the loss is not finite; its gradient has not reached a weight.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers = dict(zip(self._names, self._numbers.tolist(), strict=True))
        if not math.isfinite(numbers["loss"]):
            raise NotFiniteError(", ".join(f"{name} {numbers[name]}" for name in self._parts), self.paths)
        values = dict(list(numbers.items())[: self._num_values])
        return values, {name: number for name, number in numbers.items() if name not in values}


def forward_backward(model: nn.Module, config: PretrainConfig, batch: PretrainBatch, device: torch.device) -> Measured:
    """Leave the gradient of a batch's mean loss in the weights of `model`; the host waits for nothing.

    With `optim.accumulate` parts, each part goes forward and backward before the next, its loss weighted by its share
    of the videos. The key networks move once, before the first part. A part's keys enter the queues when it is done, so
    later parts meet them as negatives; negatives "of the batch" and batch-norm statistics are those of the part.

    Args:
        model: a `FIMA`, or one wrapped for several devices.
        config: settings of the run.
        batch: this process's videos, on the CPU.
        device: where the model is.

    Returns:
        `loss`, the weighted sum over the global batch, each part of it and each statistic by name; beside them
        `embedding_std` of the query embeddings of clip a.
    """
    parts = batch.split(config.optim.accumulate)
    values: dict[str, Tensor] = {}
    queries, names = [], []
    for number, part in enumerate(parts):
        share = len(part.paths) / len(batch.paths)
        with reduce_gradients(model, now=number == len(parts) - 1):
            losses = forward(model, config, part.to(device), update_keys=number == 0)
            torch.autograd.backward(losses.total * share if len(parts) > 1 else losses.total)
        found = {"loss": weighted_sum(losses, config.method), **losses.parts, **losses.stats}
        values = {name: values.get(name, 0) + share * value for name, value in found.items()}
        queries.append(losses.query)
        names = list(losses.parts)
    return Measured(values, {"embedding_std": spread(torch.cat(queries))}, names, batch)


def weighted_sum(losses: StepLosses, method: MethodConfig) -> Tensor:
    """The loss over the global batch, from its parts: a device scalar."""
    total = sum(getattr(method, f"{name}_weight") * value.float() for name, value in losses.parts.items())
    assert isinstance(total, Tensor), "a loss has parts"
    return total


def forward(model: nn.Module, config: PretrainConfig, batch: PretrainBatch, *, update_keys: bool = True) -> StepLosses:
    """Compute the losses of one batch that is on the device."""
    method = config.method
    clips = [
        make_inputs(
            views,
            draws,
            full_difference=method.cell_loss,
            frame_differences=method.frame_loss,
            local_stride=method.local_stride,
        )
        for views, draws in ((batch.a, batch.draws_a), (batch.b, batch.draws_b))
    ]
    with autocast(clips[0].full.device, config.run.precision):
        losses: StepLosses = model(*clips, update_keys=update_keys)
    return losses


def reduce_gradients(model: nn.Module, *, now: bool) -> contextlib.AbstractContextManager[None]:
    """A context in which the devices average their gradients after backward, or put that off to a later part."""
    if isinstance(model, DistributedDataParallel) and not now:
        no_sync: contextlib.AbstractContextManager[None] = model.no_sync()
        return no_sync
    return contextlib.nullcontext()
