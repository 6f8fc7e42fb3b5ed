"""One optimiser step: forward, checks, backward; in parts where the memory is too small for the whole batch."""

import contextlib
import math

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fima.config import MethodConfig, PretrainConfig
from fima.data.augment import make_inputs
from fima.data.loader import PretrainBatch
from fima.engine.precision import autocast
from fima.errors import TrainingError
from fima.model.inputs import StepLosses

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


def forward_backward(
    model: nn.Module, config: PretrainConfig, batch: PretrainBatch, device: torch.device
) -> tuple[dict[str, float], Tensor]:
    """Leave the gradient of a batch's mean loss in the weights of `model`.

    With `optim.accumulate` parts, each part goes forward and backward before the next, its loss weighted by its share
    of the videos. The key networks move once, before the first part. A part's keys enter the queues when it is done, so
    later parts meet them as negatives; negatives "of the batch" and batch-norm statistics are those of the part.

    Args:
        model: a `MoCo` or `FIMA`, or one wrapped for several devices.
        config: settings of the run.
        batch: this process's videos, on the CPU.
        device: where the model is.

    Returns:
        `loss`, the weighted sum over the global batch, each part of it and each statistic by name; and the query
        embeddings of clip a, (B, D).

    Raises:
        NotFiniteError: a loss is not finite; its gradient has not reached a weight.
    """
    parts = batch.split(config.optim.accumulate)
    values: dict[str, float] = {}
    queries = []
    for number, part in enumerate(parts):
        share = len(part.paths) / len(batch.paths)
        with reduce_gradients(model, now=number == len(parts) - 1):
            losses = forward(model, config, part.to(device), update_keys=number == 0)
            found = finite_values(losses, config.method, batch.paths)
            torch.autograd.backward(losses.total * share if len(parts) > 1 else losses.total)
        for name, value in found.items():
            values[name] = values.get(name, 0.0) + share * value
        queries.append(losses.query)
    return values, torch.cat(queries)


def forward(model: nn.Module, config: PretrainConfig, batch: PretrainBatch, *, update_keys: bool = True) -> StepLosses:
    """Compute the losses of one batch that is on the device."""
    method = config.method
    clips = [
        make_inputs(views, draws, full_difference=method.cell_loss, frame_differences=method.frame_loss)
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


def finite_values(losses: StepLosses, method: MethodConfig, paths: list[str]) -> dict[str, float]:
    """Bring the losses and their statistics to the CPU, before they can reach a weight.

    Returns:
        `loss`, the weighted sum over the global batch, then each part and each statistic by name.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    named = {**losses.parts, **losses.stats}
    numbers = torch.stack([value.float() for value in named.values()]).tolist()
    values = dict(zip(named, numbers, strict=True))
    total = sum(getattr(method, f"{name}_weight") * values[name] for name in losses.parts)
    if not math.isfinite(total):
        raise NotFiniteError(", ".join(f"{name} {values[name]}" for name in losses.parts), paths)
    return {"loss": total, **values}
