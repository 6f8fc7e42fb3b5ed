"""How a process that decodes hands a batch over: in shared memory, or, where that is full, as an error.

PyTorch moves the tensors of a batch to shared memory in a thread of its own, where an error is printed and the batch is
lost: the process that trains would wait for it for ever.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import TypeVar

from torch import Tensor
from torch.utils.data import get_worker_info

from fima.errors import TrainingError

Batch = TypeVar("Batch")
Items = TypeVar("Items")


def handed_over(collate: Callable[[Items], Batch], items: Items) -> Batch | TrainingError:
    """Make a batch and, in a process that decodes, move its tensors to shared memory.

    The batch is a dataclass, or something without tensors. Where shared memory is full, an error is returned in its
    place, for `GuardedLoader` to raise.
    """
    batch = collate(items)
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
        for field in fields(item):
            yield from _tensors(getattr(item, field.name))
