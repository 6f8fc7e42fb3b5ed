"""Activation maps over a whole video: next to its frames as a video, and averaged as a picture. Frames are streamed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fima.checkpoints.checkpoint import LoadedEncoder
from fima.data.clips import TimedVideo
from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.evaluate.activation import MapKind, MapTimeline, ViewEncoders, map_timeline
from fima.evaluate.cam import adapted_to_differences
from fima.evaluate.extract import Resources
from fima.visual.overlay import Picture, in_a_column, in_a_row, label, labelled, overlay, resized, save_picture
from fima.visual.video_out import VideoFormat, shown_fps, video_writer

NUM_MOMENTS = 5
LEGEND = "maps: dark = lowest, bright = highest in the whole video; the average has a scale of its own"

FrameSource = Callable[[], Iterable[NDArray[np.uint8]]]
"""Gives all frames of a video from the first, uint8 (H, W, 3); it is asked more than once."""


@dataclass(frozen=True, kw_only=True)
class NamedEncoder:
    """An encoder that is to be shown."""

    name: str
    """What stands above its maps."""
    encoders: ViewEncoders
    clips: ClipSettings
    """Size and timing of the clips that it is shown."""


def shown_encoder(
    name: str,
    loaded: LoadedEncoder,
    videos: VideoList,
    clips: ClipSettings,
    resources: Resources,
    *,
    kind: MapKind = "both",
) -> NamedEncoder:
    """Return the encoder of a checkpoint, under a name, with what its maps need.

    Where they need the batch-norm statistics of frame differences, these are measured on `clips.num_clips` clips of
    each video.
    """
    difference = None
    if kind == "both":
        difference, _ = adapted_to_differences(loaded.encoder, videos, clips, resources)
    encoders = ViewEncoders(rgb=loaded.encoder, difference=difference, occlusion=kind == "occlusion")
    return NamedEncoder(name=name, encoders=encoders, clips=clips)


@dataclass(frozen=True, kw_only=True)
class VideoMaps:
    """The maps of one video by the name of the encoder, and what is needed to show them."""

    timelines: Mapping[str, MapTimeline]
    num_frames: int

    def panels(self, frame: Picture, number: int) -> Picture:
        """Frame `number` next to its maps, maps coloured from lowest to highest value in the whole video."""
        maps = [
            labelled(overlay(frame, timeline.at(number), timeline.limits), name)
            for name, timeline in self.timelines.items()
        ]
        return in_a_row([labelled(frame, "video"), *maps])


def look_at(
    shown: Iterable[NamedEncoder], source: FrameSource, video: TimedVideo, *, device: torch.device
) -> VideoMaps:
    """Compute the maps of a video, window by window.

    Raises:
        VideoError: an encoder counts in frames per second, and the video has no frame rate.
    """
    timelines = {
        encoder.name: map_timeline(
            encoder.encoders,
            source(),
            window=encoder.clips.timing.window(video, encoder.clips.frames),
            crop_size=encoder.clips.crop_size,
            device=device,
        )
        for encoder in shown
    }
    return VideoMaps(timelines=timelines, num_frames=video.num_frames)


def write_map_video(maps: VideoMaps, source: FrameSource, out: Path, *, fps: float, height: int) -> None:
    """Write the video next to its maps, `height` pixels each: an `.mp4`, or a `.gif` of at most 15 frames a second.

    Its frames per second are 0 where unknown.
    """
    kind: VideoFormat = "gif" if out.suffix == ".gif" else "mp4"
    rate, every = shown_fps(fps, kind)
    with video_writer(out, rate) as write:
        for number, frame in enumerate(source()):
            if number % every == 0:
                write(maps.panels(resized(frame, height), number))


def write_map_picture(maps: VideoMaps, source: FrameSource, out: Path, *, height: int) -> None:
    """Write a PNG of moments of the video with their maps, and in the last column the maps averaged over it.

    Tiles are `height` pixels high.
    """
    moments = np.linspace(0, maps.num_frames - 1, min(NUM_MOMENTS, maps.num_frames)).round().astype(int).tolist()
    kept: list[Picture] = []
    total: NDArray[np.float64] | float = 0.0
    for number, frame in enumerate(source()):
        small = resized(frame, height)
        total = total + small.astype(np.float64)
        if number in moments:
            kept.append(small)
    mean_frame = np.asarray(total / maps.num_frames, dtype=np.uint8)
    frames = [labelled(tile, f"frame {number}") for tile, number in zip(kept, moments, strict=True)]
    rows = [in_a_row([*frames, labelled(mean_frame, "average")])]
    for name, timeline in maps.timelines.items():
        tiles = [
            overlay(tile, timeline.at(number), timeline.limits) for tile, number in zip(kept, moments, strict=True)
        ]
        tiles.append(overlay(mean_frame, timeline.mean))
        rows.append(labelled(in_a_row(tiles), name))
    rows.append(label(LEGEND, rows[0].shape[1]))
    save_picture(in_a_column(rows), out)
