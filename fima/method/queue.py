"""A queue of keys from earlier steps: the negatives of the losses."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fima.errors import ConfigError

VIDEO_IDS = ".video_ids"
"""What the names of the videos of a queue's keys end in, in the state dict of a method."""


def decided_size(size: int | None, flag: str) -> int:
    """The size of a queue, which a run derives from its number of videos where the settings leave it open.

    Raises:
        ConfigError: it is still open.
    """
    if size is None:
        raise ConfigError(f"--{flag} None: must be a number by now; give one, or derive it from the number of videos")
    return size


class KeyQueue(nn.Module):
    """The newest K keys of size D, in a ring, and the video of each where it `knows_videos`.

    The first step needs negatives too: the queue starts with random unit vectors.
    """

    keys: Tensor
    """Unit vectors, (K, D)."""
    position: Tensor
    """Row of `keys` that is written next, int64 scalar."""
    video_ids: Tensor | None
    """Number of the video of each key, int64 (K,); -1 where it is not known."""

    def __init__(self, size: int, dim: int, *, knows_videos: bool = False) -> None:
        super().__init__()
        self.register_buffer("keys", normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("video_ids", torch.full((size,), -1) if knows_videos else None)

    def snapshot(self) -> Tensor:
        """The keys as they are now, (K, D): a copy, so that `write` cannot change what a backward pass still needs."""
        return self.keys.clone()

    @torch.no_grad()
    def write(self, rows: Tensor, video_ids: Tensor | None = None) -> None:
        """Replace the oldest keys by new ones, oldest first, (rows, D); of more than K, the last K remain.

        A queue that keeps the videos of keys takes them, int64 (rows,).
        """
        size = len(self.keys)
        kept = rows[-size:].to(self.keys.dtype)
        first = len(rows) - len(kept)
        index = (self.position + first + torch.arange(len(kept), device=rows.device)) % size
        self.keys.index_copy_(0, index, kept)
        if self.video_ids is not None and video_ids is not None:
            self.video_ids.index_copy_(0, index, video_ids[-size:])
        self.position.copy_((self.position + len(rows)) % size)
