"""Where the motion of a video is: the box that a crop has to hold."""

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 42
"""Cells of the picture along each side, in which motion is measured."""
THRESHOLD_SHARE = 0.2
"""A cell moves from this share of the way between the median and the strongest cell on."""
STRONGEST = 0.995
TAIL = 0.02
"""Share of the motion that may lie beyond each side of the box."""
LEAST_MOTION = 0.7
"""In grey levels: with less between the median and the strongest cell, the box is the whole picture."""
SMALLEST_BOX = 0.25


def motion_boxes(frames: Tensor) -> Tensor:
    """Return the box of each video's motion: left, top, right and bottom in 0..1, float32 (B, 4).

    Videos are uint8 (B, T, 3, S, S); where hardly anything moves, it is the whole picture.
    """
    grey = frames.float().mean(dim=2)
    cells = functional.adaptive_avg_pool2d(grey, (CELLS, CELLS))
    motion = cells.diff(dim=1).square().mean(dim=1).sqrt()
    motion = functional.avg_pool2d(functional.pad(motion[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    median = motion.flatten(1).median(dim=1).values
    above = motion.flatten(1).quantile(STRONGEST, dim=1) - median
    moving = (motion - (median + THRESHOLD_SHARE * above)[:, None, None]).clamp(min=0)
    (left, right), (top, bottom) = _extent(moving.sum(dim=1)), _extent(moving.sum(dim=2))
    boxes = torch.stack([left, top, right, bottom], dim=1)
    return torch.where((above < LEAST_MOTION)[:, None], whole_picture(frames.device), boxes)


def whole_picture(device: torch.device) -> Tensor:
    """The box of all, (4,), made on the device: a copy to it would wait for what runs there."""
    return (torch.arange(4, device=device) >= 2).float()


def _extent(motion: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place in 0..1, (B,) each, of motion along one side, (B, cells)."""
    done = motion.cumsum(dim=1)
    done = done / done[:, -1:].clamp(min=1e-9)
    first = (done < TAIL).sum(dim=1) / CELLS
    last = ((done < 1 - TAIL).sum(dim=1) + 1).clamp(max=CELLS) / CELLS
    return first, last


def square_around(boxes: Tensor, margin: float) -> Tensor:
    """Return squares about boxes (B, 4), `margin` times their longer side and within the picture, (B, 4)."""
    low, high = boxes[:, :2], boxes[:, 2:]
    side = (margin * (high - low).amax(dim=1, keepdim=True).clamp(min=SMALLEST_BOX)).clamp(max=1)
    centre = ((low + high) / 2).clamp(side / 2, 1 - side / 2)
    return torch.cat([centre - side / 2, centre + side / 2], dim=1)
