"""A queue of keys from earlier steps: the negatives of the losses."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fima.errors import ConfigError


def decided_size(size: int | None, flag: str) -> int:
    """The size of a queue, which a run derives from its number of videos where the settings leave it open.

    Raises:
        ConfigError: it is still open.
    """
    if size is None:
        raise ConfigError(f"--{flag} None: must be a number by now; give one, or derive it from the number of videos")
    return size


class KeyQueue(nn.Module):
    """The newest K keys, in a ring.

    The first step needs negatives too: the queue starts with random unit vectors.

    Args:
        size: keys K.
        dim: size D of a key.
    """

    keys: Tensor
    """Unit vectors, (K, D)."""
    position: Tensor
    """Row of `keys` that is written next, int64 scalar."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def snapshot(self) -> Tensor:
        """The keys as they are now, (K, D): a copy, so that `write` cannot change what a backward pass still needs."""
        return self.keys.clone()

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Replace the oldest keys.

        Args:
            rows: new keys, oldest first, (rows, D); any number of them. Of more than K, the last K remain.
        """
        size = len(self.keys)
        kept = rows[-size:].to(self.keys.dtype)
        first = len(rows) - len(kept)
        index = (self.position + first + torch.arange(len(kept), device=rows.device)) % size
        self.keys.index_copy_(0, index, kept)
        self.position.copy_((self.position + len(rows)) % size)
