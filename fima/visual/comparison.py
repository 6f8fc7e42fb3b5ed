"""One picture that compares encoders: a column a video, with frames of its middle clip above a map an encoder."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray
from torch import Tensor

from fima.data.clips import FrameCount, evenly_spread_starts, full_positions
from fima.data.datasets import Video, VideoList
from fima.data.eval_clips import ClipSettings, EvalClipsDataset, EvalSample
from fima.errors import DataError, VideoError
from fima.evaluate.activation import ViewEncoders, averaged_map
from fima.evaluate.cam import MaskLoader, clip_masks
from fima.visual.overlay import COLOURS, OPACITY

OUTLINE_COLOUR = "#4ade80"
TILE_INCHES = 1.2
NAME_INCHES = 0.95
HEAD_INCHES, FOOT_INCHES, MARGIN_INCHES = 0.42, 0.34, 0.08
NAME_CHARACTERS = 12
COLUMNS = 8
FRAME_NAMES = ("first frame", "last frame")
DOTS_PER_INCH = 120


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
    """Write a picture that compares encoders: a column a video, frames of its middle clip, then a map an encoder.

    Each map is stretched from its own minimum to its own maximum, over the clip's middle frame. The object's outline is
    that of this frame. After eight videos, the columns begin anew below.

    Args:
        encoders: by name, on `device`.
        videos: the columns.
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
    canvas = _Canvas.create(len(videos), list(encoders), title=title, outlined=load_mask is not None)
    for number, video in enumerate(videos):
        clip = _middle_clip(video, single)
        mask = None if load_mask is None else _middle_mask(load_mask(video.path), single)
        maps = [averaged_map(encoder, clip[None].to(device))[0].cpu().numpy() for encoder in encoders.values()]
        canvas.draw_column(number, clip.permute(1, 2, 3, 0).numpy(), maps, mask)
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas.figure.savefig(out, dpi=DOTS_PER_INCH, facecolor="white")


def _middle_clip(video: Video, settings: ClipSettings) -> Tensor:
    """The clip in the middle of a video, uint8 (3, F, S, S)."""
    videos = VideoList(videos=[video], classes=[], root=video.path.parent, split="all", layout="one video")
    sample = EvalClipsDataset(videos, settings)[0]
    if not isinstance(sample, EvalSample):
        raise VideoError(video.path, sample.reason)
    return sample.clips[0]


def _middle_mask(mask: NDArray[np.bool_], settings: ClipSettings) -> NDArray[np.float32]:
    """The mask of the middle frame of a video's middle clip, (S, S) in [0, 1]."""
    num_frames = len(mask)
    window = settings.timing.window(FrameCount(num_frames), settings.frames)
    (start,) = evenly_spread_starts(num_frames, window.length, 1)
    middle = window.indices(start)[full_positions(settings.frames)][settings.frames // 2]
    still = replace(settings, frames=1)
    return np.asarray(clip_masks(mask[[middle]], still)[0].numpy(), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """The figure of `side_by_side`: rows of frames and maps, named on the left, a column a video."""

    figure: Figure
    blocks: list[GridSpec]
    names: list[str]

    @staticmethod
    def create(num_videos: int, map_names: list[str], *, title: str, outlined: bool) -> "_Canvas":
        """Lay out an empty picture: `outlined` says whether the footer explains the object's outline."""
        names = [*FRAME_NAMES, *map_names]
        num_columns = min(COLUMNS, num_videos)
        num_blocks = -(-num_videos // num_columns)
        block = TILE_INCHES * len(names)
        # One video or two leave the title and the legend little room.
        width = max(NAME_INCHES + TILE_INCHES * num_columns + MARGIN_INCHES, 6.0)
        height = HEAD_INCHES + (block + MARGIN_INCHES) * num_blocks + FOOT_INCHES
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        blocks = []
        for number in range(num_blocks):
            top = height - HEAD_INCHES - number * (block + MARGIN_INCHES)
            right = (NAME_INCHES + TILE_INCHES * num_columns) / width
            edges = {"left": NAME_INCHES / width, "right": right, "top": top / height, "bottom": (top - block) / height}
            blocks.append(GridSpec(len(names), num_columns, figure=figure, wspace=0.04, hspace=0.04, **edges))
        left = MARGIN_INCHES / width
        figure.text(left, 1 - HEAD_INCHES / 2 / height, title, fontsize=11, fontweight="bold", va="center")
        legend = "dark = lowest, bright = highest of the map"
        legend += "; green: outline of the moving object" if outlined else ""
        figure.text(left, FOOT_INCHES / 2 / height, legend, fontsize=8.5, color="#4b5563", va="center")
        return _Canvas(figure=figure, blocks=blocks, names=names)

    def draw_column(
        self,
        number: int,
        frames: NDArray[np.uint8],
        maps: Sequence[NDArray[np.float32]],
        mask: NDArray[np.float32] | None,
    ) -> None:
        """Draw frames (F, S, S, 3), one map (S, S) an encoder, and the outline of a mask (S, S), of one video."""
        block, column = divmod(number, COLUMNS)
        tiles = [self._tile(block, row, column) for row in range(len(self.names))]
        for axes, frame in zip(tiles, (frames[0], frames[-1]), strict=False):
            axes.imshow(frame, interpolation="bicubic")
        for axes, heat in zip(tiles[len(FRAME_NAMES) :], maps, strict=True):
            middle = frames[len(frames) // 2].mean(axis=2)
            axes.imshow(middle, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
            axes.imshow(heat, cmap=COLOURS, alpha=OPACITY, interpolation="bicubic")
            if mask is not None:
                axes.contour(mask, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=1.2)

    def _tile(self, block: int, row: int, column: int) -> Axes:
        axes = self.figure.add_subplot(self.blocks[block][row, column])
        axes.set_axis_off()
        if column == 0:
            name = textwrap.fill(self.names[row], NAME_CHARACTERS, max_lines=4)
            weight = "normal" if row < len(FRAME_NAMES) else "bold"
            axes.text(
                -0.06, 0.5, name, transform=axes.transAxes, fontsize=8.5, fontweight=weight, ha="right", va="center"
            )
        return axes
