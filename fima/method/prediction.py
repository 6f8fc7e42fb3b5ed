"""What a clip predicts of the other clip's motion."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True, kw_only=True)
class MotionPrediction:
    """Unit vectors that one clip predicts; of a term that is off there are none."""

    slices: Tensor
    """Of each temporal slice as a whole, for the frame term, (B, t, 1, D)."""
    cells: Tensor
    """Of each cell, for the cell term, (B, t, N, D)."""

    @property
    def frames(self) -> Tensor:
        """The early and the late local motion, (2, B, D)."""
        return early_and_late(self.slices[:, :, 0])


def early_and_late(slices: Tensor) -> Tensor:
    """Predictions of the early and the late local motion, (2, B, D), from those of the temporal slices, (B, t, D).

    With two slices, slice 0 is early and slice 1 late, as published. In general the first and the last ceil(t/2) slices
    are averaged, so that the middle one of an odd number serves both. All are unit vectors.
    """
    num_slices = slices.shape[1]
    early = slices[:, : (num_slices + 1) // 2].mean(dim=1)
    late = slices[:, num_slices // 2 :].mean(dim=1)
    return normalize(torch.stack([early, late]), dim=-1)
