"""The method's own view of a video: two clips, their differences and foreground, and the cells that the loss aligns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import ConnectionPatch, Rectangle
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fima.config import PretrainConfig
from fima.data.clips import FULL, window_starts
from fima.data.decode.video import VideoReader
from fima.data.loader import drawn_timing
from fima.data.views import sample_views
from fima.evaluate.activation import ViewEncoders, responses
from fima.files.atomic import written_whole
from fima.method.foreground import foreground_mask
from fima.method.losses import cell_centres, positive_pairs
from fima.method.motion import frame_difference

CELL_PX = 32
NUM_SHOWN_FRAMES = 4
COLOURS_OF_CLIPS = {"a": "#f59e0b", "b": "#38bdf8"}
TILE_INCHES = 1.9
GAP_SHARE = 0.12
"""Width of the gap between the strips of the two clips, as a share of a tile's."""


@dataclass(frozen=True, kw_only=True)
class ClipPicture:
    """One of the two clips."""

    first_frame: int
    """Number of the first frame of its window."""
    frames: NDArray[np.uint8]
    """The whole frames behind the `full` view, (F, H, W, 3)."""
    view: Tensor
    """The `full` view, uint8 (3, F, S, S)."""
    difference: Tensor
    """Its frame difference, float32 (3, F, S, S) in [0, 1]; 0.5 is no change."""
    box: Tensor
    """The crop in the source frame, (4,); x0 > x1 when it is mirrored."""
    mask: Tensor
    """Foreground cells, bool (h, w)."""

    @property
    def last_pixel(self) -> Tensor:
        """Column and row of the last pixel of a whole frame, (2,): where the box's coordinates are 1."""
        return torch.tensor([self.frames.shape[2] - 1, self.frames.shape[1] - 1])


@dataclass(frozen=True, kw_only=True)
class MotionView:
    """Two clips of a video as the pixel-level loss sees them."""

    a: ClipPicture
    b: ClipPicture
    pairs: Tensor
    """Which cells of a and b are positives of each other, bool (N, N)."""
    source: str
    """What the foreground comes from, in words."""


def motion_view(
    path: Path, config: PretrainConfig, *, encoders: ViewEncoders | None, device: torch.device, seed: int = 0
) -> MotionView:
    """Cut two clips out of a video as pre-training does, before the colour augmentation, and match their cells.

    The seed decides windows and crops, the encoders the foreground; without them, the energy of the frame difference
    does, on a grid of 32-px cells. Raises VideoError where the video cannot be decoded.
    """
    generator = np.random.default_rng(seed)
    with VideoReader(path) as reader:
        window = drawn_timing(config.data, generator).window(reader, config.data.frames)
        starts = window_starts(
            reader.num_frames,
            window.reach,
            generator,
            sampling=config.data.clip_sampling,
            step_frames=config.data.step_between_clips,
        )
        frames = [reader.read(window.indices(start)) for start in starts]
    drawn = [sample_views(clip, config.data, generator) for clip in frames]
    views, boxes = torch.stack([each.full for each in drawn]), torch.stack([each.box for each in drawn])
    differences = frame_difference(views.float() / 255)
    if encoders is None:
        energy = (differences - 0.5).abs().mean(dim=(1, 2))
        heat = functional.adaptive_avg_pool2d(energy, max(2, round(config.data.crop_size / CELL_PX)))
        source = "cells whose frame difference has more energy than the median"
    else:
        heat = responses(encoders, views.to(device)).mean(dim=1).cpu()
        source = "cells whose activation is above the median"
    masks = foreground_mask(heat) if config.method.foreground else torch.ones_like(heat, dtype=torch.bool)
    pairs = positive_pairs(boxes[:1], boxes[1:], masks[:1], masks[1:], pos_ratio=config.method.pos_ratio)[0]
    a, b = (
        ClipPicture(first_frame=start, frames=clip[FULL], view=each.full, difference=change, box=each.box, mask=mask)
        for start, clip, each, change, mask in zip(starts, frames, drawn, differences, masks, strict=True)
    )
    return MotionView(a=a, b=b, pairs=pairs, source=source)


def draw_motion(view: MotionView, out: Path, *, title: str) -> None:
    """Write a PNG: title, frames and differences of both crops, then both frames with cells and matches."""
    frame_height, frame_width = view.a.frames.shape[1:3]
    wide = 2 * TILE_INCHES * (NUM_SHOWN_FRAMES + 0.1)
    low = wide / 2 * frame_height / frame_width
    figure = Figure(figsize=(wide, low + 2 * TILE_INCHES + 1.5))
    FigureCanvasAgg(figure)
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.2 / height, title, fontsize=12, fontweight="bold", va="center")
    top = figure.add_gridspec(
        2, 2 * NUM_SHOWN_FRAMES + 1, left=0.01, right=0.99, top=1 - 0.62 / height, wspace=0.04, hspace=0.04,
        bottom=(low + 0.85) / height, width_ratios=[1] * NUM_SHOWN_FRAMES + [GAP_SHARE] + [1] * NUM_SHOWN_FRAMES,
    )  # fmt: skip
    bottom = figure.add_gridspec(
        1, 2, left=0.01, right=0.99, top=(low + 0.45) / height, bottom=0.4 / height, wspace=0.03
    )
    panels = []
    for number, (name, clip) in enumerate({"a": view.a, "b": view.b}.items()):
        _draw_strip(figure, top, number * (NUM_SHOWN_FRAMES + 1), clip, name)
        panels.append(figure.add_subplot(bottom[0, number]))
        _draw_cells(panels[-1], clip, name)
    num_matched = _draw_matches(figure, panels, view)
    text = (
        f"foreground (filled): {view.source} · {num_matched} of {view.a.mask.numel()} cells of clip a have a positive "
        f"in clip b ({int(view.pairs.sum())} pairs, same colour and joined by a line)"
    )
    figure.text(0.01, 0.16 / height, text, fontsize=8, color="#4b5563", va="center")
    with written_whole(out) as temporary:
        figure.savefig(temporary, dpi=110, facecolor="white")


def _draw_strip(figure: Figure, grid: GridSpec, first_column: int, clip: ClipPicture, name: str) -> None:
    """Frames of the crop above their differences."""
    shown = np.linspace(0, clip.view.shape[1] - 1, NUM_SHOWN_FRAMES).round().astype(int)
    for column, number in enumerate(shown):
        rows = (clip.view[:, number].float() / 255, clip.difference[:, number])
        for row, pixels in enumerate(rows):
            axes = figure.add_subplot(grid[row, first_column + column])
            axes.set_axis_off()
            axes.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="bicubic", vmin=0, vmax=1)
        if column == 0:
            mirrored = ", mirrored" if clip.box[0] > clip.box[2] else ""
            text = (
                f"clip {name}: its crop{mirrored}, from frame {clip.first_frame}; below: change since the frame before"
            )
            figure.axes[-2].set_title(text, fontsize=8.5, loc="left", color="#16181d")


def _draw_cells(axes: Axes, clip: ClipPicture, name: str) -> None:
    """The middle frame with the crop's cells; foreground cells are filled."""
    middle = clip.frames[len(clip.frames) // 2]
    axes.set_axis_off()
    axes.imshow(middle.mean(axis=2), cmap="gray", vmin=-60, vmax=320, interpolation="bicubic")
    colour = COLOURS_OF_CLIPS[name]
    x, y, right, bottom = (clip.box * clip.last_pixel.repeat(2)).tolist()
    rows, columns = clip.mask.shape
    wide, high = (right - x) / columns, (bottom - y) / rows
    for (row, column), filled in np.ndenumerate(clip.mask.numpy()):
        corner, face = (x + column * wide, y + row * high), (colour, 0.28 if filled else 0)
        axes.add_patch(Rectangle(corner, wide, high, facecolor=face, edgecolor=(colour, 0.5), lw=0.6))
    axes.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=colour, lw=2.2))
    axes.set_title(f"crop of clip {name} in its frame", fontsize=9, loc="left", fontweight="bold", color="#16181d")


def _draw_matches(figure: Figure, panels: list[Axes], view: MotionView) -> int:
    """Join each cell of clip a to its positives in clip b; returns how many cells have one."""
    centres = [
        (cell_centres(clip.box[None], *clip.mask.shape)[0] * clip.last_pixel).tolist() for clip in (view.a, view.b)
    ]
    matched = view.pairs.any(dim=1).nonzero()[:, 0].tolist()
    for order, cell in enumerate(matched):
        colour = colormaps["turbo"](0.05 + 0.9 * order / max(1, len(matched) - 1))
        panels[0].plot(*centres[0][cell], "o", color=colour, ms=5, mec="white", mew=0.7)
        for other in view.pairs[cell].nonzero()[:, 0].tolist():
            panels[1].plot(*centres[1][other], "o", color=colour, ms=5, mec="white", mew=0.7)
            ends = centres[0][cell], centres[1][other], panels[0].transData, panels[1].transData
            figure.add_artist(ConnectionPatch(*ends, color=colour, lw=0.7, alpha=0.75))
    return len(matched)
