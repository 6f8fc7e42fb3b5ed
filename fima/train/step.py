"""One optimiser step: forward and backward; in parts where the memory is too small for the whole batch."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fima.data.labelled import LabelledBatch
from fima.data.loader import PretrainBatch
from fima.method.inputs import StepLosses
from fima.torch_tools import distributed
from fima.train.failures import NotFiniteError
from fima.train.health import effective_rank, spread

Batch = TypeVar("Batch", PretrainBatch, LabelledBatch)


class Measured:
    """What a step has measured, on its way from the device; nobody waits for it until it is read.

    Args:
        losses: device scalars by name: `loss`, and each part of it.
        stats: others, of which the epoch's means are recorded too.
        batch: the videos.
        queries: (B, D) query embeddings of this process, whose standard deviation and effective rank are numbers, too.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        stats: Mapping[str, Tensor],
        batch: PretrainBatch | LabelledBatch,
        queries: Tensor,
    ) -> None:
        self.paths, self.skipped = batch.paths, batch.skipped
        self.losses, self.averaged = list(losses), [*losses, *stats]
        scalars = {**losses, **stats, **({"embedding_std": spread(queries)} if len(queries) else {})}
        self._names, numbers = list(scalars), torch.stack([value.double() for value in scalars.values()])
        self.query_shape = queries.shape
        self._numbers, self._queries, self._arrived = numbers, queries, None
        if numbers.device.type == "cuda":
            self._numbers, self._queries = (
                torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
                for value in (numbers, queries)
            )
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(numbers.device))

    def read(self) -> dict[str, float]:
        """Wait for the step, and return its numbers by name. Raises NotFiniteError where the loss is not finite."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers = dict(zip(self._names, self._numbers.tolist(), strict=True))
        if not math.isfinite(numbers["loss"]):
            parts = ", ".join(f"{name} {numbers[name]}" for name in self.losses[1:])
            raise NotFiniteError(parts or str(numbers["loss"]), self.paths)
        if len(self._queries):
            numbers["effective_rank"] = effective_rank(self._queries)
        return numbers


def forward_backward(
    forward: Callable[[Batch, bool], StepLosses],
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    *,
    num_parts: int,
    by_set: Callable[[Tensor, Tensor], Mapping[str, Tensor]] | None = None,
) -> Measured:
    """Leave the gradient of a batch's mean loss in the weights of `model`; the host waits for nothing.

    Each part goes forward and backward before the next, its loss weighted by its share of the videos.

    Args:
        forward: the losses of a part that is on the device, and of which it knows whether it is the first.
        model: the networks, or a wrapper of them for several devices.
        batch: this process's videos, on the CPU.
        device: where the model is.
        num_parts: parts of the batch.
        by_set: what is recorded of the losses of the videos, (B,), given their places in the list, (B,), too.

    Returns:
        `loss`, each part of it and each statistic over the global batch; `embedding_std` of the query embeddings.
    """
    parts = batch.split(num_parts)
    losses: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    queries: list[Tensor] = []
    each: list[Tensor] = []
    for number, part in enumerate(parts):
        share = len(part.paths) / len(batch.paths)
        # The devices average their gradients after the last part.
        is_last = number == len(parts) - 1
        with contextlib.nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            found = forward(part.to(device), number == 0)
            torch.autograd.backward(found.total * share if len(parts) > 1 else found.total)
        loss = distributed.all_reduce_mean(found.total)
        losses = {name: losses.get(name, 0) + share * value for name, value in {"loss": loss, **found.parts}.items()}
        stats = {name: stats.get(name, 0) + share * value for name, value in found.stats.items()}
        queries.append(found.query)
        each += [] if found.each is None else [found.each]
    if by_set is not None and each:
        stats |= by_set(torch.cat(each), batch.index)
    return Measured(losses, stats, batch, torch.cat(queries))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed for torch that is a function of the run's seed, the step and the process, and of nothing else."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
