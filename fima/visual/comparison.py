"""One picture that compares encoders: a row a video, frames of its middle clip, then a map an encoder."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray
from torch import Tensor

from fima.data.clips import evenly_spread_starts, full_positions, window_indices
from fima.data.datasets import Video, VideoList
from fima.data.eval_clips import EvalClipsDataset, EvalSample
from fima.errors import DataError, VideoError
from fima.evaluation.features import ClipSettings
from fima.visual.activation import ViewEncoders, averaged_map
from fima.visual.cam import MaskLoader, clip_masks
from fima.visual.overlay import COLOURS, OPACITY

OUTLINE_COLOUR = "#4ade80"
TILE_INCHES = 1.55
TITLE_CHARACTERS = 20
NUM_SHOWN_FRAMES = 3
DOTS_PER_INCH = 150


def side_by_side(
    encoders: Mapping[str, ViewEncoders],
    videos: Sequence[Video],
    out: Path,
    settings: ClipSettings,
    *,
    device: torch.device,
    load_mask: MaskLoader | None = None,
    title: str = "Where the encoder responds",
) -> None:
    """Write a picture that compares encoders: a row a video, frames of its middle clip, then a map an encoder.

    Each map is stretched from its own minimum to its own maximum. The object's outline is that of the clip's middle
    frame.

    Args:
        encoders: by name, on `device`.
        videos: the rows.
        out: the PNG to write.
        settings: how clips are cut out of the videos; `num_clips` is not used.
        device: where the encoders are.
        load_mask: from a video's path to its mask (T, H, W), for the outline; None: no outline.
        title: first line of the picture.

    Raises:
        DataError: no videos.
        VideoError: a video cannot be decoded.
    """
    if not videos:
        raise DataError("no video to show")
    single = replace(settings, num_clips=1, num_crops=1)
    canvas = _Canvas.create(num_rows=len(videos), map_names=list(encoders), title=title, outlined=load_mask is not None)
    for row, video in enumerate(videos):
        clip = _middle_clip(video, single)
        mask = None if load_mask is None else _middle_mask(load_mask(video.path), single)
        maps = [averaged_map(encoder, clip[None].to(device))[0].cpu().numpy() for encoder in encoders.values()]
        canvas.draw_row(row, clip.permute(1, 2, 3, 0).numpy(), maps, mask)
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas.figure.savefig(out, dpi=DOTS_PER_INCH, facecolor="white")


def _middle_clip(video: Video, settings: ClipSettings) -> Tensor:
    """The clip in the middle of a video, uint8 (3, F, S, S)."""
    videos = VideoList(videos=[video], classes=[], root=video.path.parent, split="all", layout="one video")
    sample = EvalClipsDataset(videos, **vars(settings))[0]
    if not isinstance(sample, EvalSample):
        raise VideoError(video.path, sample.reason)
    return sample.clips[0]


def _middle_mask(mask: NDArray[np.bool_], settings: ClipSettings) -> NDArray[np.float32]:
    """The mask of the middle frame of a video's middle clip, (S, S) in [0, 1]."""
    num_frames = len(mask)
    window = 2 * settings.frames
    start = evenly_spread_starts(num_frames, window, 1)[0]
    middle = window_indices(start, window, num_frames)[full_positions(settings.frames)][settings.frames // 2]
    still = replace(settings, frames=1)
    return np.asarray(clip_masks(mask[[middle]], still)[0].numpy(), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """The figure of `side_by_side`: columns of frames, a gap, columns of maps."""

    figure: Figure
    grid: GridSpec
    map_names: list[str]

    @staticmethod
    def create(*, num_rows: int, map_names: list[str], title: str, outlined: bool) -> "_Canvas":
        """Lay out an empty picture: `outlined` says whether the footer explains the object's outline."""
        num_columns = NUM_SHOWN_FRAMES + len(map_names)
        head, foot = 0.85, 0.35
        width, height = TILE_INCHES * (num_columns + 0.25) + 0.4, TILE_INCHES * num_rows + head + foot
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        grid = GridSpec(
            num_rows,
            num_columns + 1,
            figure=figure,
            width_ratios=[1.0] * NUM_SHOWN_FRAMES + [0.25] + [1.0] * len(map_names),
            left=0.2 / width,
            right=1 - 0.2 / width,
            top=1 - head / height,
            bottom=foot / height,
            wspace=0.04,
            hspace=0.04,
        )
        figure.text(0.2 / width, 1 - 0.3 / height, title, fontsize=13, fontweight="bold", va="center", ha="left")
        legend = "activation: dark = lowest, bright = highest of the map"
        legend += "; green: outline of the moving object" if outlined else ""
        figure.text(0.2 / width, 0.17 / height, legend, fontsize=8, color="#4b5563", va="center", ha="left")
        return _Canvas(figure=figure, grid=grid, map_names=map_names)

    def draw_row(
        self,
        row: int,
        frames: NDArray[np.uint8],
        maps: Sequence[NDArray[np.float32]],
        mask: NDArray[np.float32] | None,
    ) -> None:
        """Draw frames (F, S, S, 3), one map (S, S) an encoder, and the outline of a mask (S, S)."""
        shown = np.linspace(0, len(frames) - 1, NUM_SHOWN_FRAMES).round().astype(int)
        names = ["first frame", "middle", "last frame"]
        middle = frames[len(frames) // 2]
        for column, (frame, name) in enumerate(zip(frames[shown], names, strict=True)):
            self._draw_tile(row, column, frame, None, None, name)
        for number, (heat, name) in enumerate(zip(maps, self.map_names, strict=True)):
            self._draw_tile(row, NUM_SHOWN_FRAMES + 1 + number, middle, heat, mask, name)

    def _draw_tile(
        self,
        row: int,
        column: int,
        frame: NDArray[np.uint8],
        heat: NDArray[np.float32] | None,
        mask: NDArray[np.float32] | None,
        name: str,
    ) -> None:
        axes = self.figure.add_subplot(self.grid[row, column])
        axes.set_axis_off()
        if heat is None:
            axes.imshow(frame, interpolation="bicubic")
        else:
            axes.imshow(frame.mean(axis=2), cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
            axes.imshow(heat, cmap=COLOURS, alpha=OPACITY, interpolation="bicubic")
        if mask is not None:
            axes.contour(mask, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=1.2)
        if row == 0:
            is_map = heat is not None
            title = textwrap.fill(name, TITLE_CHARACTERS, max_lines=2)
            axes.set_title(title, fontsize=9, fontweight="bold" if is_map else "normal", pad=5)
