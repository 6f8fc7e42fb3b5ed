"""Two clips of one video, three views each: random crops and flips, not yet coloured."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fima.config import DataConfig
from fima.data.clips import FULL

MIN_ASPECT = 3 / 4
MAX_ASPECT = 4 / 3
CROP_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class ClipViews:
    """The three views of one clip, or of a batch of clips."""

    full: Tensor
    """Every second frame of the window, uint8 ([B,] 3, F, S, S)."""
    early: Tensor
    """The first half of the window, uint8 ([B,] 3, F, S, S); without frames where it is not wanted."""
    late: Tensor
    """The second half of the window, likewise."""
    box: Tensor
    """Where `full` lies in the source frame: x0, y0, x1, y1 in [0, 1], float32 ([B,] 4); x0 > x1 when flipped."""

    def to(self, device: torch.device | str) -> "ClipViews":
        """The same views on another device; copies do not block where the memory is pinned."""
        return ClipViews(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def __getitem__(self, rows: slice | None) -> "ClipViews":
        """Some clips of a batch; None: a clip as a batch of one."""
        return ClipViews(**{name: value[rows] for name, value in vars(self).items()})

    def pin_memory(self) -> "ClipViews":
        """The same views in page-locked memory, from which copies to a GPU do not block."""
        return ClipViews(**{name: value.pin_memory() for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A rectangle of the source frame, in pixels, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flipped: bool

    def box(self, frame_width: int, frame_height: int) -> Tensor:
        """The centres of the corner pixels, as shares of the frame (docs/method.md, views), float32 (4,).

        (x0/(W-1), y0/(H-1), (x0+w-1)/(W-1), (y0+h-1)/(H-1)); x0 and x1 swapped when flipped.
        """
        last_x, last_y = max(1, frame_width - 1), max(1, frame_height - 1)
        x0, x1 = self.left / last_x, (self.left + self.width - 1) / last_x
        y0, y1 = self.top / last_y, (self.top + self.height - 1) / last_y
        return torch.tensor([x1, y0, x0, y1] if self.flipped else [x0, y0, x1, y1])


def random_crop(frame_width: int, frame_height: int, data: DataConfig, generator: np.random.Generator) -> Crop:
    """A random rectangle of a frame, as in torchvision's RandomResizedCrop, mirrored with the settings' probability.

    Its area, as a share of the frame, is drawn uniformly, its aspect (3/4 to 4/3) log-uniformly; where ten draws do not
    fit, it is the largest centred one of an allowed aspect.
    """
    areas = frame_width * frame_height * generator.uniform(data.min_area, data.max_area, CROP_TRIES)
    aspects = np.exp(generator.uniform(np.log(MIN_ASPECT), np.log(MAX_ASPECT), CROP_TRIES))
    where_x, where_y, draw = generator.random(3)
    flipped = bool(draw < data.flip)
    for area, aspect in zip(areas, aspects, strict=True):
        width, height = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if 0 < width <= frame_width and 0 < height <= frame_height:
            left = int(where_x * (frame_width - width + 1))
            top = int(where_y * (frame_height - height + 1))
            return Crop(left=left, top=top, width=width, height=height, flipped=flipped)
    width = min(frame_width, max(1, round(frame_height * MAX_ASPECT)))
    height = min(frame_height, max(1, round(frame_width / MIN_ASPECT)))
    left, top = (frame_width - width) // 2, (frame_height - height) // 2
    return Crop(left=left, top=top, width=width, height=height, flipped=flipped)


def crop_and_resize(frames: npt.NDArray[np.uint8], crop: Crop, size: int) -> Tensor:
    """Cuts the same rectangle out of every frame, uint8 (T, H, W, 3), and scales it to a square: uint8 (3, T, S, S).

    Bilinear without antialiasing as in the published code, rounded; mirrored where the crop is.
    """
    rows, columns = slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width)
    pixels = torch.from_numpy(frames[:, rows, columns])
    # (T, 3, H, W) with channels last in memory: the layout of torch's vectorised uint8 kernel.
    view = functional.interpolate(pixels.permute(0, 3, 1, 2), size=(size, size), mode="bilinear")
    if crop.flipped:
        view = view.flip(3)
    return view.transpose(0, 1).contiguous(memory_format=torch.contiguous_format)


def sample_views(
    window: npt.NDArray[np.uint8], data: DataConfig, generator: np.random.Generator, *, frame_views: bool = True
) -> ClipViews:
    """The three views of one clip, uint8 (3, F, S, S), each cropped and flipped on its own, all frames of a view alike.

    The window holds the frames at the clip's instants, uint8 (2·F, H, W, 3); those of `full` alone, (F, …), without
    `frame_views` (`early` and `late`). The generator advances alike with and without them.
    """
    frame_height, frame_width = window.shape[1:3]
    crops = [random_crop(frame_width, frame_height, data, generator) for _ in range(3)]
    full_frames = FULL if frame_views else slice(None)
    positions = (full_frames, slice(None, data.frames), slice(data.frames, None))
    nothing = torch.empty((3, 0, data.crop_size, data.crop_size), dtype=torch.uint8)
    full, early, late = (
        crop_and_resize(window[position], crop, data.crop_size) if wanted else nothing
        for position, crop, wanted in zip(positions, crops, (True, frame_views, frame_views), strict=True)
    )
    return ClipViews(full=full, early=early, late=late, box=crops[0].box(frame_width, frame_height))
