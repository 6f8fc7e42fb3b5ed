"""Several processes as one: collectives that do nothing where there is only one process."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fima.errors import ConfigError

T = TypeVar("T")


TIMEOUT_MINUTES = 30.0
MOST_MINUTES = 366 * 24 * 60
"""A year stands for `inf`, and for what no clock of the libraries can count."""


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """How `shuffle_rows` has shuffled rows, for `unshuffle_rows`."""

    order: Tensor
    """Which row of the global batch came where, (rows of all processes,); with several processes on the CPU."""
    counts: list[int]
    """Rows of each process."""


def is_initialized() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the logs and the checkpoints."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def init_from_environment(device: torch.device, timeout_minutes: float = TIMEOUT_MINUTES) -> torch.device:
    """Join the process group that `torchrun` describes in the environment; a numbered GPU becomes the current one.

    Returns the device of this process: with several processes and `cuda`, the GPU of its local rank. A process that
    waits longer than the timeout gives up. Raises ConfigError where the processes do not find each other, or have no
    GPU each.
    """
    if int(os.environ.get("WORLD_SIZE") or "1") > 1 and not is_initialized():
        # Here, since builds of PyTorch without `torch.distributed` have neither.
        from torch._C._distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        if device.type == "cuda":
            device = _own_gpu()
            torch.cuda.set_device(device)
        try:
            timeout = timedelta(minutes=min(timeout_minutes, MOST_MINUTES))
            store, rank, size = next(rendezvous("env://", timeout=timeout))
            # torchrun keeps its store when it starts the processes again: without a prefix of their own they would look
            # for each other under the addresses of those that have died.
            own = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            # Numbers of the host travel between hosts: no GPU has to wait for them.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=timeout)
            # A process that fails at once would be gone before a slow one has connected to it, which would blame the
            # address.
            own.set(f"met {rank}", "yes")
            own.wait([f"met {other}" for other in range(size)], timeout)
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise ConfigError(
                f"the processes have not met at {address} ({str(error).splitlines()[0]}); start all of them, "
                "with the same address and a free port"
            ) from None
    elif device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what is recorded on the current stream is waited for
    return device


def _own_gpu() -> torch.device:
    """The GPU of this process's local rank."""
    number, count = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if not number.isdigit() or int(number) >= count:
        raise ConfigError(
            f"LOCAL_RANK {number or '(not set)'}: each process needs a GPU of its own, and {count} are visible; start "
            f"them by torchrun --nproc-per-node {count}, or give --device cpu (--run.device cpu to train)"
        )
    return torch.device("cuda", int(number))


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if is_initialized():
        dist.destroy_process_group()


def row_counts(x: Tensor) -> list[int]:
    """Rows of `x`, (rows, …), in every process, in rank order."""
    if world_size() == 1:
        return [len(x)]
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)]))
    return [int(count) for count in counts]


def own_rows(x: Tensor) -> Tensor:
    """Where the rows of `x`, (rows, …), lie among those of all processes, in rank order: int64 (rows,)."""
    first = sum(row_counts(x)[: rank()])
    return torch.arange(first, first + len(x), device=x.device)


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """The rows (rows, …) of all processes, however many each has, in rank order, without gradient, everywhere."""
    if world_size() == 1:
        return x.detach()
    counts = row_counts(x)
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_objects(items: Sequence[T]) -> list[T]:
    """The items of all processes as one list, in rank order, the same everywhere: picklable values."""
    if world_size() == 1:
        return list(items)
    parts: list[Sequence[T]] = [()] * world_size()
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def data_parallel(module: nn.Module) -> nn.Module:
    """`module`, whose gradients the processes average; itself where there is one process alone.

    Its buffers stay each process's own: batch-norm statistics as in MoCo, queues because they are equal everywhere.
    """
    if world_size() == 1:
        return module
    # Strides of sides of length 1 say nothing, and which ones a gradient has differs between kernels.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    with warnings.catch_warnings():
        # What torch 2.14 has in its place exchanges buffers at the start, and is not known to older versions.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False)


@torch.no_grad()
def broadcast_buffers(module: nn.Module) -> None:
    """Give every process the buffers of the first one, such as its batch-norm statistics."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of `x` over the processes, any shape, as a new tensor without gradient."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def any_process(value: bool) -> bool:
    """Whether something holds in any of the processes; the same answer in all of them."""
    return value if world_size() == 1 else bool(all_reduce_sum(torch.tensor(float(value))) > 0)


def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean of `x` over the processes, any shape, as a new tensor without gradient."""
    return all_reduce_sum(x) / world_size()


def global_mean(values: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean over the global batch of values (B,), scaled for gradients that are averaged over the processes.

    The sum of this process is divided by the count over all processes and multiplied by their number: the mean of the
    results over the processes is the mean over the global batch, however many rows each process has. The rows that are
    `present`, bool (B,), count; if none counts anywhere, the result is 0.
    """
    if present is None:
        present = torch.ones_like(values, dtype=torch.bool)
    count = all_reduce_sum(present.sum())
    return values.where(present, 0).sum() * world_size() / count.clamp(min=1)


@torch.no_grad()
def shuffle_rows(x: Tensor, *, alone: bool = False) -> tuple[Tensor, Shuffle]:
    """Shuffle the rows of all processes, as many to each process as it had; return its new ones, and how.

    So a batch norm on the key side does not see the same samples together as on the query side (MoCo, shuffling BN).
    Those of a process that is alone keep their order, unless `alone` is set.
    """
    if world_size() == 1:
        if not alone:
            return x, Shuffle(order=torch.arange(len(x), device=x.device), counts=[len(x)])
        order = torch.randperm(len(x)).to(x.device)
        return x[order], Shuffle(order=order, counts=[len(x)])
    counts = row_counts(x)
    order = torch.randperm(sum(counts)) if is_main() else torch.empty(sum(counts), dtype=torch.int64)
    dist.broadcast(order, src=0)
    return _take_rows(x, order, counts), Shuffle(order=order, counts=counts)


@torch.no_grad()
def unshuffle_rows(x: Tensor, shuffle: Shuffle, *, alone: bool = False) -> Tensor:
    """Bring rows, (B, …), back to where they were before `shuffle_rows`, given its result and its `alone`."""
    if world_size() == 1:
        return x[shuffle.order.argsort()] if alone else x
    return _take_rows(x, shuffle.order.argsort(), shuffle.counts)


def _take_rows(x: Tensor, sources: Tensor, counts: list[int]) -> Tensor:
    """Give each process the rows that it takes, (B, …); a row travels only from its owner to its new one.

    `sources` says which row of the global batch comes where, and is on the CPU, where the host reads it without waiting
    for a GPU; `counts` are the rows of each process, before and after.
    """
    ends = torch.tensor(counts).cumsum(0)
    first, last = int(ends[rank()]) - len(x), int(ends[rank()])
    parts = torch.split(sources, counts)
    sent = [part[(part >= first) & (part < last)] - first for part in parts]
    owners = torch.bucketize(parts[rank()], ends, right=True)
    rows = x[torch.cat(sent).to(x.device, non_blocking=True)].contiguous()
    received = torch.empty_like(rows)
    num_received = owners.bincount(minlength=len(counts)).tolist()
    dist.all_to_all_single(received, rows, num_received, [len(part) for part in sent])
    # They arrive sorted by owner, those of one owner in the order in which they are wanted.
    return received[owners.argsort(stable=True).argsort().to(x.device, non_blocking=True)]
