"""Batches as dataclasses of tensors and lists: joined from samples, and handed over in shared memory.

PyTorch moves the tensors of a batch to shared memory in a thread of its own, where an error is printed and the batch is
lost: the process that trains would wait for it for ever.
"""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass, replace
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from fima.errors import TrainingError

Batch = TypeVar("Batch")


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of what several hold: tensors and lists one after another, dataclasses in it field by field."""
    parts: Any = batches
    whole: Any
    if isinstance(batches[0], Tensor):
        whole = torch.cat(parts)
    elif isinstance(batches[0], list):
        whole = [*chain.from_iterable(parts)]
    else:
        whole = replace(parts[0], **{name: joined([getattr(part, name) for part in parts]) for name in vars(parts[0])})
    return cast(Batch, whole)


def in_shared_memory(batch: Batch) -> Batch | TrainingError:
    """Move the tensors of a dataclass to shared memory, in a process that decodes; leave an error as it is.

    Where shared memory is full, an error is returned in its place, for `Guard.items` to raise.
    """
    if get_worker_info() is None:
        return batch
    try:
        for tensor in _tensors(batch):
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        return TrainingError(
            f"a batch does not fit into shared memory ({str(error).splitlines()[0]}): give /dev/shm more room (in a "
            "container: --shm-size), or take a smaller batch, fewer worker processes, or 0 of them"
        )
    return batch


def _tensors(item: object) -> Iterator[Tensor]:
    """The tensors of a dataclass, and of the dataclasses in it."""
    if isinstance(item, Tensor):
        yield item
    elif is_dataclass(item):
        for value in vars(item).values():
            yield from _tensors(value)
