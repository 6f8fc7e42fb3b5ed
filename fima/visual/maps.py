"""Activation maps next to the frames of a whole video, which is streamed, and in one picture that compares encoders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fima.data.clips import FULL, TimedVideo, evenly_spread_starts
from fima.data.datasets import Video, VideoList
from fima.data.eval_clips import ClipSettings
from fima.errors import DataError, VideoError, warn
from fima.evaluate.activation import MapKind, MapTimeline, ViewEncoders, averaged_map, map_timeline
from fima.evaluate.cam import MaskLoader, adapted_to_differences, clip_masks, mask_window
from fima.evaluate.extract import Resources, WindowDataset
from fima.evaluate.frozen import FrozenEncoder
from fima.visual.overlay import (
    Picture,
    in_a_column,
    in_a_row,
    label,
    label_width,
    labelled,
    outlined,
    overlay,
    resized,
    save_picture,
    widened,
)
from fima.visual.video_out import VideoFormat, shown_fps, video_writer

NUM_MOMENTS = 5
OUTLINE_COLOUR = (74, 222, 128)
TILE_PX = 144
NARROWEST_PX = 720
"""One video or two would leave the title and the legend little room."""
TITLE_PX, TITLE_FONT_PX = 32, 17
WIDEST_NAME_PX = 320
"""Beside a narrow frame, the name of an encoder gets this much room at most."""
COLUMNS = 8
FRAME_NAMES = ("first frame", "last frame")
LEGEND = "maps: dark = lowest, bright = highest of the map"
VIDEO_LEGEND = "maps: dark = lowest, bright = highest in the whole video; the average has its own scale"

FrameSource = Callable[[], Iterable[NDArray[np.uint8]]]
"""Gives all frames of a video from the first, uint8 (H, W, 3); it is asked more than once."""


@dataclass(frozen=True, kw_only=True)
class NamedEncoder:
    """An encoder that is to be shown clips, under its name."""

    name: str
    encoders: ViewEncoders
    clips: ClipSettings


def shown_encoder(
    name: str,
    encoder: FrozenEncoder,
    videos: VideoList,
    clips: ClipSettings,
    resources: Resources,
    *,
    kind: MapKind = "both",
) -> NamedEncoder:
    """Return an encoder, under a name, with what its maps need.

    Where they need the batch-norm statistics of frame differences, these are measured on `clips.num_clips` clips of
    each video.
    """
    difference = adapted_to_differences(encoder.module, videos, clips, resources)[0] if kind == "both" else None
    encoders = ViewEncoders(rgb=encoder.module, difference=difference, occlusion=kind == "occlusion")
    return NamedEncoder(name=name, encoders=encoders, clips=clips)


def look_at(
    shown: Iterable[NamedEncoder], source: FrameSource, video: TimedVideo, *, device: torch.device
) -> dict[str, MapTimeline]:
    """Compute the maps of a video, window by window, by the name of the encoder.

    Raises VideoError where clips are by rate and it has no frame rate.
    """
    return {
        encoder.name: map_timeline(
            encoder.encoders,
            source(),
            window=encoder.clips.timing.window(video, encoder.clips.frames),
            crop_size=encoder.clips.crop_size,
            device=device,
        )
        for encoder in shown
    }


def panels(maps: Mapping[str, MapTimeline], frame: Picture, number: int) -> Picture:
    """Frame `number` next to its maps, which are coloured from lowest to highest value in the whole video."""
    tiles = {"video": frame} | {name: overlay(frame, found.at(number), found.limits) for name, found in maps.items()}
    # In frames of a portrait format, names of encoders would be cut off where they differ.
    room = {name: min(WIDEST_NAME_PX, label_width(name)) for name in tiles}
    return in_a_row([labelled(tile, name, narrowest=room[name]) for name, tile in tiles.items()])


def write_map_video(
    maps: Mapping[str, MapTimeline], source: FrameSource, out: Path, *, fps: float, height: int
) -> None:
    """Write a video of `fps`, 0 if unknown, next to its maps, `height` px high: `.mp4`, or `.gif` of at most 15 fps."""
    kind: VideoFormat = "gif" if out.suffix == ".gif" else "mp4"
    rate, every = shown_fps(fps, kind)
    with video_writer(out, rate) as write:
        for number, frame in enumerate(source()):
            if number % every == 0:
                write(panels(maps, resized(frame, height), number))


def write_map_picture(
    maps: Mapping[str, MapTimeline], source: FrameSource, out: Path, *, num_frames: int, height: int
) -> None:
    """Write a PNG of moments of the video, `height` px each, with their maps; the last column is its average."""
    moments = np.linspace(0, num_frames - 1, min(NUM_MOMENTS, num_frames)).round().astype(int).tolist()
    kept: list[Picture] = []
    total: NDArray[np.float64] | float = 0.0
    for number, frame in enumerate(source()):
        small = resized(frame, height)
        total = total + small.astype(np.float64)
        if number in moments:
            kept.append(small)
    mean_frame = np.asarray(total / num_frames, dtype=np.uint8)
    titles = [*(f"frame {number}" for number in moments), "average"]
    column = max(map(label_width, titles))
    frames = zip([*kept, mean_frame], titles, strict=True)
    rows = [in_a_row([labelled(frame, title, narrowest=column) for frame, title in frames])]
    for name, found in maps.items():
        tiles = [overlay(tile, found.at(number), found.limits) for tile, number in zip(kept, moments, strict=True)]
        tiles.append(overlay(mean_frame, found.mean))
        row = in_a_row([widened(tile, column) for tile in tiles])
        rows.append(labelled(row, name, narrowest=min(NARROWEST_PX, label_width(name))))
    rows.append(label(VIDEO_LEGEND, max(rows[0].shape[1], label_width(VIDEO_LEGEND))))
    save_picture(in_a_column(rows), out)


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
    that of this frame, where `load_mask` gives the mask (T, H, W) of a path. After eight videos, the columns begin anew
    below. Of the settings, `num_clips` and `num_crops` do not count. Videos that cannot be decoded are left out, with a
    warning; DataError where none is left.
    """
    single = replace(settings, num_clips=1, num_crops=1)
    rows: dict[str, list[Picture]] = {name: [] for name in (*FRAME_NAMES, *encoders)}
    for video in videos:
        try:
            clip = next(WindowDataset([video.path], single).chunks(0)).clips[0, 0]
        except VideoError as error:
            warn(f"{error}; left out")
            continue
        frames = clip.permute(1, 2, 3, 0).numpy()
        middle = resized(frames[len(frames) // 2], TILE_PX)
        for name, frame in zip(FRAME_NAMES, (frames[0], frames[-1]), strict=True):
            rows[name].append(resized(frame, TILE_PX))
        for name, encoder in encoders.items():
            heat = averaged_map(encoder, clip[None].to(device))[0].cpu().numpy()
            tile = overlay(middle, heat)
            if load_mask is not None:
                tile = outlined(tile, _middle_mask(load_mask(video.path), single, video.path), OUTLINE_COLOUR)
            rows[name].append(tile)
    num_shown = len(rows[FRAME_NAMES[0]])
    if not num_shown:
        raise DataError("no video that can be shown; see above")
    legend = LEGEND if load_mask is None else f"{LEGEND}; green: outline of the moving object"
    parts = [label(title, NARROWEST_PX, height=TITLE_PX, font_px=TITLE_FONT_PX)]
    for first in range(0, num_shown, COLUMNS):
        parts += [
            labelled(in_a_row(tiles[first : first + COLUMNS]), name, narrowest=NARROWEST_PX)
            for name, tiles in rows.items()
        ]
    save_picture(in_a_column([*parts, label(legend, NARROWEST_PX)]), out)


def _middle_mask(mask: NDArray[np.bool_], settings: ClipSettings, path: Path) -> NDArray[np.float32]:
    """The mask of the middle frame of a video's middle clip, (S, S) in [0, 1]."""
    window = mask_window(mask, settings, path)
    (start,) = evenly_spread_starts(len(mask), window.reach, 1)
    middle = window.indices(start)[FULL][settings.frames // 2]
    still = replace(settings, frames=1, fps=0.0)
    return np.asarray(clip_masks(mask[[middle]], still, path)[0].numpy(), dtype=np.float32)
