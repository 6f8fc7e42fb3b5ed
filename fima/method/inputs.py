"""What a method takes and what it gives back."""

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def required(value: Value | None, name: str) -> Value:
    """A value that a loss in use cannot do without.

    Raises:
        ValueError: it is None.
    """
    if value is None:
        raise ValueError(f"{name} is None, but a loss that is switched on needs it")
    return value


@dataclass(frozen=True, kw_only=True)
class ClipInputs:
    """What the networks see of one clip: augmented, normalised views, all (B, 3, T, H, W)."""

    full: Tensor
    """The RGB view."""
    full_difference: Tensor | None = None
    """Frame difference of the `full` view; the cell loss needs it."""
    early_difference: Tensor | None = None
    """Frame difference of the first half at stride 1; the frame loss needs it."""
    late_difference: Tensor | None = None
    """Frame difference of the last half at stride 1; the frame loss needs it."""
    box: Tensor
    """Crop of the `full` view, (x0, y0, x1, y1) normalised to the source frame, (B, 4); x0 > x1 when flipped."""


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """Losses of one step."""

    total: Tensor
    """Weighted sum, scalar with gradient. With several processes, its mean over them is the global batch's."""
    parts: dict[str, Tensor]
    """Unweighted losses of the global batch: `instance`, and where they are on `frame` and `cell`; detached scalars."""
    stats: dict[str, Tensor]
    """How the losses are doing, on average over the processes; detached scalars."""
    query: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """Query embeddings of clip a, detached, (B, D), for the log; (0, 0) where there are none."""
