"""What a method takes and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

View = Literal["full", "full_difference", "early_difference", "late_difference"]
VIEWS: tuple[View, ...] = ("full", "full_difference", "early_difference", "late_difference")
"""The RGB view, its frame difference, and those of the first and of the last half at stride 1: in the order in which
the key encoder sees them."""


@dataclass(frozen=True, kw_only=True)
class ClipInputs:
    """What the networks see of one clip."""

    views: Mapping[View, Tensor]
    """Augmented, normalised views, all (B, 3, T, H, W): `full`, and the differences that the terms in use need."""
    box: Tensor
    """Crop of the `full` view, (x0, y0, x1, y1) normalised to the source frame, (B, 4); x0 > x1 when flipped."""
    videos: Tensor | None = None
    """Number of the video of each clip, int64 (B,), where the method asks which keys are of the same one."""

    @property
    def full(self) -> Tensor:
        """The RGB view, (B, 3, T, H, W)."""
        return self[VIEWS[0]]

    def __getitem__(self, view: View) -> Tensor:
        """A view by name, (B, 3, T, H, W).

        Raises:
            ValueError: the clip has no such view.
        """
        if view not in self.views:
            raise ValueError(f"the clip has no view `{view}`, which a loss that is switched on needs")
        return self.views[view]


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """Losses of one step."""

    total: Tensor
    """Weighted sum, scalar with gradient. With several processes, its mean over them is the global batch's."""
    parts: dict[str, Tensor]
    """Unweighted losses of the global batch: `instance`, and where they are on `frame` and `cell`; detached scalars."""
    stats: dict[str, Tensor]
    """How the losses are doing, on average over the processes; detached scalars."""
    each: Tensor | None = None
    """Weighted sum of each video of this process, detached, (B,), where the losses of videos stand apart. A video
    without a pair of matching cells has a cell loss of 0."""
    query: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """Query embeddings of clip a, detached, (B, D), for the log; (0, 0) where there are none."""
