"""Rendered videos that stay on the device, random clips of them, and where their motion is: what a crop has to hold."""

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fima.errors import ConfigError
from fima.synthetic.people.draws import Draws
from fima.synthetic.people.figures import BATCH, NUM_FRAMES, render_people
from fima.synthetic.people.programs import PARAMETERS

BOX_SHARE = 0.5
"""How often a clip is cut from the surroundings of the motion, rather than from the whole picture."""
BOX_MARGIN = 1.8
SHORTEST_SPAN = 0.7
"""Smallest share of its video that a clip covers."""
MIN_AREA = 0.4
"""Smallest area of a crop, as a share of the square that it is cut from."""
ASPECT = math.log(4 / 3) / 2
"""Largest logarithm of a crop's width over its height."""
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


@dataclass(frozen=True, kw_only=True)
class Bank:
    """N rendered videos on one device."""

    frames: Tensor
    """uint8 (N, 32, 3, S, S)."""
    squares: Tensor
    """Surroundings of the motion: left, top, right, bottom in 0..1, (N, 4)."""
    targets: Tensor
    """Motion parameters over the bank's mean and standard deviation, float32 (N, 88)."""

    def __len__(self) -> int:
        return len(self.frames)

    def clips(self, index: Tensor, draws: Draws, *, frames: int, crop_size: int) -> Tensor:
        """Random clips of the videos at `index`, int64 (B,): float32 (B, 3, F, C, C) in 0..1.

        Each has evenly spaced frames of 70-100 % of its video, cut out alike from the whole picture or from the
        surroundings of the motion.
        """
        span = NUM_FRAMES * draws.uniform(SHORTEST_SPAN, 1, 1)
        start = draws.uniform(0, 1, 1) * (NUM_FRAMES - span)
        instants = start + span * (torch.arange(frames, device=draws.device) + 0.5) / frames
        chosen = self.frames[index[:, None], instants.long()]
        near = draws.chance(BOX_SHARE, 1) > 0
        squares = torch.where(near, self.squares[index], whole_picture(draws.device))
        crop = _random_crops(squares, draws)
        return _cut_out(chosen, crop, crop_size)


def render_bank(
    num_videos: int,
    *,
    seed: int,
    side: int,
    device: torch.device,
    folder: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Bank:
    """Render the videos 0..`num_videos` - 1 of a seed, and keep them on the device: 96 * S * S bytes a video.

    There are at least 2 videos, of a side S in pixels that is a multiple of 8. On a CPU, those that its memory cannot
    hold may lie in a file in `folder`, which ends with the process. `report` is given how many are done, of how many.
    Raises ConfigError where device or disk have too little room.
    """
    frames = _empty((num_videos, NUM_FRAMES, 3, side, side), device, folder)
    squares = torch.empty(num_videos, 4, device=device)
    targets = torch.empty(num_videos, len(PARAMETERS), device=device)
    for number in range(math.ceil(num_videos / BATCH)):
        first = number * BATCH
        rendered, motion = (
            each[: num_videos - first] for each in render_people(seed, number, side=side, device=device)
        )
        frames[first : first + BATCH] = rendered
        squares[first : first + BATCH] = square_around(motion_boxes(rendered), BOX_MARGIN)
        targets[first : first + BATCH] = motion
        report(min(first + BATCH, num_videos), num_videos)
    return Bank(frames=frames, squares=squares, targets=standardised(targets))


def _empty(shape: tuple[int, ...], device: torch.device, folder: Path | None) -> Tensor:
    """A uint8 tensor on a device; on a CPU, with a folder, in a file there that has no name any more."""
    num_bytes = math.prod(shape)
    need = f"--videos {shape[0]}: {shape[0]:,} videos of {shape[-1]} px need {num_bytes / 1e9:.1f} GB"
    try:
        if device.type != "cpu" or folder is None:
            return torch.empty(shape, dtype=torch.uint8, device=device)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".rendered-") as file:
            # What a sparse file lacks on a full disk would end the process at the first access.
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            return torch.from_file(file.name, shared=True, size=num_bytes, dtype=torch.uint8).view(shape)
    except OSError as error:
        raise ConfigError(f"{need} of the disk below {folder} ({error.strerror}); make room, or take fewer") from None
    except RuntimeError:
        raise ConfigError(f"{need}, more than {device} has free; take fewer") from None


def standardised(values: Tensor) -> Tensor:
    """Return columns (N, D) with mean 0 and deviation 1; those that hardly vary become 0."""
    return (values - values.mean(dim=0)) / values.std(dim=0).clamp(min=1e-3)


def _random_crops(squares: Tensor, draws: Draws) -> Tensor:
    """Random rectangles (B, 4) within squares (B, 4)."""
    area = draws.uniform(MIN_AREA, 1)
    aspect = torch.exp(draws.uniform(-ASPECT, ASPECT))
    share = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1)
    low, extent = squares[:, :2], squares[:, 2:] - squares[:, :2]
    low = low + draws.uniform(0, 1, 2) * (1 - share) * extent
    return torch.cat([low, low + share * extent], dim=1)


def _cut_out(frames: Tensor, crops: Tensor, side: int) -> Tensor:
    """Scale crops (B, 4) of frames, uint8 (B, T, 3, S, S), to squares: float32 (B, 3, T, side, side) in 0..1."""
    places = (torch.arange(side, device=frames.device) + 0.5) / side
    low, high = crops[:, None, :2], crops[:, None, 2:]
    points = 2 * (low + places[:, None] * (high - low)) - 1  # (B, side, 2)
    x, y = points[:, None, :, 0].expand(-1, side, -1), points[:, :, None, 1].expand(-1, -1, side)
    num_videos, num_frames = frames.shape[:2]
    grid = torch.stack([x, y], dim=-1).repeat_interleave(num_frames, dim=0)
    pixels = frames.flatten(0, 1).float() / 255
    cut = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return cut.reshape(num_videos, num_frames, 3, side, side).transpose(1, 2)


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
