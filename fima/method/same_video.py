"""Which negatives are of the query's own video, where `method.exclude_same_video` leaves them out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fima.torch_tools.distributed import gather_rows, own_rows


@dataclass(frozen=True, kw_only=True)
class BatchVideos:
    """The videos of a batch, by number."""

    own: Tensor
    """Of this process's samples, int64 (B,)."""
    batch: Tensor
    """Of the global batch, int64 (G,)."""
    rows: Tensor
    """Where this process's samples lie in the global batch, int64 (B,)."""

    @classmethod
    def of(cls, videos: Tensor) -> "BatchVideos":
        """Those of this process, (B,), and of all others."""
        return cls(own=videos, batch=gather_rows(videos), rows=own_rows(videos))

    def same(self, videos: Tensor) -> Tensor:
        """Which keys are of the video of each sample, bool (B, M), by the videos of the keys, (M,); -1 is none."""
        return self.own[:, None] == videos

    def other_samples(self) -> Tensor:
        """Which samples of the global batch are of the same video, but are not the sample itself, bool (B, G)."""
        is_itself = self.rows[:, None] == torch.arange(len(self.batch), device=self.rows.device)
        return self.same(self.batch) & ~is_itself
