"""Where an encoder responds: class-agnostic activation maps, as a picture and as a number."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fima.data.clips import evenly_spread_starts, full_positions, window_indices
from fima.data.datasets import Video, VideoList
from fima.data.eval_clips import EvalClipsDataset, EvalSample, build_eval_loader, centre_crop
from fima.errors import DataError, VideoError
from fima.evaluation.features import ClipSettings, encode
from fima.foreground import activation_map

MaskLoader = Callable[[Path], NDArray[np.bool_]]

COLOURS = "inferno"
OVERLAY = 0.6
OUTLINE_COLOUR = "#4ade80"
TILE_INCHES = 1.55
TITLE_CHARACTERS = 20
NUM_SHOWN_FRAMES = 3
DOTS_PER_INCH = 150


@dataclass(frozen=True, kw_only=True)
class ForegroundShare:
    """How much of the activation falls on what moves; all in percent."""

    share: float
    """Of the activation above each map's minimum, the part on the object; mean over the clips of all videos."""
    chance: float
    """The share of the crop that the object covers: what a map that is the same everywhere would get."""
    num_videos: int
    """Videos that were measured."""


def activation(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return where an encoder responds to RGB clips.

    Args:
        encoder: (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), in eval mode.
        clips: uint8 (B, 3, F, S, S).

    Returns:
        The encoder's activation maps, upsampled bilinearly, (B, S, S) float32.
    """
    maps = activation_map(encode(encoder, clips))
    return functional.interpolate(maps[:, None], size=clips.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def foreground_share(
    encoder: nn.Module,
    videos: VideoList,
    load_mask: MaskLoader,
    settings: ClipSettings,
    *,
    device: torch.device,
    batch_size: int = 8,
    workers: int = 0,
) -> ForegroundShare:
    """Measure which part of the activation falls on the true foreground.

    A map is shifted so that its minimum is 0 and scaled so that it sums to 1; its product with the foreground, the
    mask averaged over the clip's frames, is summed.

    Args:
        encoder: (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), in eval mode.
        videos: the videos; those that cannot be decoded are left out and not counted.
        load_mask: from a video's path to its mask (T, H, W).
        settings: how clips are cut out of the videos.
        device: where the encoder is.
        batch_size: videos at a time.
        workers: processes that decode.

    Raises:
        DataError: not one video can be decoded.
    """
    share, chance, num_videos = 0.0, 0.0, 0
    loader = build_eval_loader(videos, **vars(settings), batch_size=batch_size, workers=workers)
    for batch in loader:
        if not len(batch.index):
            continue
        foreground = torch.stack(
            [_foreground(load_mask(videos.videos[i].path), settings) for i in batch.index.tolist()]
        )
        foreground = foreground.flatten(0, 1).to(device)
        maps = activation(encoder, batch.clips.flatten(0, 1).to(device))
        raised = maps - maps.amin(dim=(1, 2), keepdim=True)
        # A map that is the same everywhere has no maximum to point at; it counts as spread evenly.
        raised = torch.where(raised.amax(dim=(1, 2), keepdim=True) > 0, raised, torch.ones_like(raised))
        on_object = (raised * foreground).sum(dim=(1, 2)) / raised.sum(dim=(1, 2))
        share += float(on_object.double().sum()) / settings.num_clips
        chance += float(foreground.double().mean(dim=(1, 2)).sum()) / settings.num_clips
        num_videos += len(batch.index)
    if not num_videos:
        raise DataError(f"{videos.root}: none of {len(videos.videos)} videos can be decoded")
    return ForegroundShare(share=100 * share / num_videos, chance=100 * chance / num_videos, num_videos=num_videos)


def _foreground(mask: NDArray[np.bool_], settings: ClipSettings) -> Tensor:
    """Masks of the evaluation clips, cut and scaled as the clips are, averaged over time: (num_clips, S, S)."""
    num_frames, height, width = mask.shape
    window = 2 * settings.frames
    crop = centre_crop(width, height)
    pixels = torch.from_numpy(mask)[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    clips = []
    for start in evenly_spread_starts(num_frames, window, settings.num_clips):
        indices = window_indices(start, window, num_frames)[full_positions(settings.frames)]
        clips.append(pixels[indices].float().mean(dim=0))
    size = (settings.crop_size, settings.crop_size)
    return functional.interpolate(torch.stack(clips)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def side_by_side(
    encoders: Mapping[str, nn.Module],
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
        encoders: by name, in eval mode and on `device`.
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
    single = ClipSettings(frames=settings.frames, crop_size=settings.crop_size, num_clips=1)
    canvas = _Canvas.create(num_rows=len(videos), map_names=list(encoders), title=title, outlined=load_mask is not None)
    for row, video in enumerate(videos):
        clip = _middle_clip(video, single)
        mask = None if load_mask is None else _middle_mask(load_mask(video.path), single)
        maps = [activation(encoder, clip[None].to(device))[0].cpu().numpy() for encoder in encoders.values()]
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
    still = ClipSettings(frames=1, crop_size=settings.crop_size, num_clips=1)
    return np.asarray(_foreground(mask[[middle]], still)[0].numpy(), dtype=np.float32)


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
            axes.imshow(heat, cmap=COLOURS, alpha=OVERLAY, interpolation="bicubic")
        if mask is not None:
            axes.contour(mask, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=1.2)
        if row == 0:
            is_map = heat is not None
            title = textwrap.fill(name, TITLE_CHARACTERS, max_lines=2)
            axes.set_title(title, fontsize=9, fontweight="bold" if is_map else "normal", pad=5)
