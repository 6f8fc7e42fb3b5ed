"""`fima cam`: where encoders look, over whole videos."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fima.commands.output import listed_videos
from fima.commands.parse import OUT, Device, one_or_more
from fima.config.checks import require_least
from fima.data.clip_overrides import ClipOverrides
from fima.data.datasets import Split, Video, VideoList
from fima.data.layouts.files import has_videos, mark_picture
from fima.errors import ConfigError, DataError, VideoError, warn
from fima.files.output import OutputPath, mark_output

if TYPE_CHECKING:
    import torch

    from fima.evaluate.activation import MapKind
    from fima.visual.maps import NamedEncoder

ADAPTING_CLIPS = 4
SMALLEST_HEIGHT_PX = 32
OTHER_FILES = (".jpg", ".jpeg", ".gif", ".mp4", ".pdf", ".webp")
"""Suffixes by which somebody means a file, which a folder of that name would not be."""
TITLES: dict[MapKind, str] = {
    "both": "Where the encoder responds",
    "rgb": "Where the encoder responds to the frames",
    "occlusion": "What the features depend on: how much they change when a place is covered",
}


@dataclass(frozen=True, kw_only=True)
class CamArguments:
    """Show where a checkpoint responds in videos, as class-agnostic activation maps over their frames.

    Each video becomes NAME.mp4 (the video next to its maps, for the whole of it) and NAME.png (moments, and the maps
    averaged over the video). If --out ends in .png, all videos go into that one picture instead, one column per video.
    For example: `fima cam runs/mine/checkpoints/last.pt clip.mp4 --out maps`.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint."""
    videos: Annotated[tyro.conf.Positional[tuple[Path, ...]], one_or_more("VIDEO")]
    """Video files, and folders or tables of videos."""
    out: Annotated[OutputPath, OUT] = Path("cam")
    """Folder for the files; or one PNG for all videos."""
    compare: Path | None = None
    """Another checkpoint, whose maps are shown next to those of the first."""
    format: Literal["mp4", "gif", "png"] = "mp4"
    """`mp4` and `gif` come with a PNG; `png`: the PNG alone."""
    map: Literal["both", "rgb", "occlusion"] = "both"
    """`both`: the response to the frames plus that to their differences, as in the paper; `rgb`: the first alone;
    `occlusion`: how much the features change when a grey square covers a place (64 passes of the encoder or more)."""
    split: Split = "all"
    """Which videos of a folder."""
    num_videos: int = 8
    """Videos of a folder, evenly spread over its list; 0: all of them."""
    clips: Annotated[ClipOverrides, tyro.conf.arg(name="")] = field(default_factory=ClipOverrides)
    height: int = 256
    """Height of the frames in the result, in pixels."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_least(self, num_videos=0, height=SMALLEST_HEIGHT_PX)
        if self.out.suffix.lower() in OTHER_FILES and not self.out.is_dir():
            raise ConfigError(f"--out {self.out}: name a folder, or one .png for all videos")
        if self.out.suffix == ".png" and self.out.is_dir():
            raise ConfigError(f"--out {self.out}: is a folder; name a file, or a folder without .png")
        if self.out.suffix != ".png" and self.out.is_file():
            raise ConfigError(f"--out {self.out}: is a file; name a folder, or one .png for all videos")


def main(arguments: CamArguments) -> None:
    """Run the command."""
    if not arguments.videos:
        raise ConfigError("no video given; `fima cam CHECKPOINT VIDEO… --out FOLDER`")
    if arguments.out.suffix != ".png" and arguments.format != "png" and has_videos(arguments.out):
        raise ConfigError(f"--out {arguments.out}: has videos; results would be taken for data; choose a new folder")
    from fima.evaluate.extract import Resources
    from fima.evaluate.loaded_model import open_checkpoint
    from fima.torch_tools.device import choose_device
    from fima.visual.maps import shown_encoder

    device = choose_device(arguments.device)
    paths = [arguments.checkpoint] if arguments.compare is None else [arguments.checkpoint, arguments.compare]
    loaded = {path: open_checkpoint(path, device=device) for path in paths}
    videos = _videos(arguments)
    resources = Resources(device=device, batch_size=1)
    shown = []
    descriptions = [encoder.name for encoder in loaded.values()]
    # Files, where what the encoders are does not tell them apart.
    names = descriptions if len(set(descriptions)) == len(loaded) else list(map(str, loaded))
    for name, encoder in zip(names, loaded.values(), strict=True):
        clips = arguments.clips.applied_to(replace(encoder.clips, num_clips=ADAPTING_CLIPS))
        if assumption := encoder.assumed(clips):
            warn(f"{name}: {assumption}")
        shown.append(shown_encoder(name, encoder, videos, clips, resources, kind=arguments.map))
    if arguments.out.suffix == ".png":
        mark_picture(arguments.out)
        _write_one_picture(arguments, shown, videos, device)
        return
    outputs = _outputs(videos)
    suffixes = {"png", arguments.format}
    mark_output(arguments.out, [f"{name}.{suffix}" for name in outputs for suffix in sorted(suffixes)])
    num_failed = 0
    for name, video in outputs.items():
        try:
            written = _write(arguments, shown, video.path, arguments.out / name, device)
        except VideoError as error:
            num_failed += 1
            warn(f"{error}; left out")
            continue
        print(f"wrote {' and '.join(map(str, written))}")
    if num_failed == len(videos.videos):
        raise DataError(f"none of {num_failed} videos could be decoded; see above")


def _write(
    arguments: CamArguments, shown: list[NamedEncoder], path: Path, out: Path, device: torch.device
) -> list[Path]:
    """Write the files of one video and return their paths."""
    from fima.data.decode.video import VideoReader
    from fima.visual.maps import look_at, write_map_picture, write_map_video

    written = []
    with VideoReader(path) as reader:
        maps = look_at(shown, reader.stream, reader, device=device)
        if arguments.format != "png":
            written.append(out.with_name(f"{out.name}.{arguments.format}"))
            write_map_video(maps, reader.stream, written[0], fps=reader.fps, height=arguments.height)
        written.append(out.with_name(f"{out.name}.png"))
        write_map_picture(maps, reader.stream, written[-1], num_frames=reader.num_frames, height=arguments.height)
    return written


def _write_one_picture(
    arguments: CamArguments, shown: list[NamedEncoder], videos: VideoList, device: torch.device
) -> None:
    from fima.synthetic.motion_textures import has_masks, load_mask
    from fima.visual.maps import side_by_side

    clips = list(dict.fromkeys(encoder.clips for encoder in shown))
    if len(clips) > 1:
        text = " and ".join(f"{each.frames} frames of {each.crop_size} px ({each.timing})" for each in clips)
        raise ConfigError(f"--compare {arguments.compare}: the checkpoints take {text}; give --out a folder")
    masked = all(path.is_dir() and has_masks(path) for path in arguments.videos)
    side_by_side(
        {encoder.name: encoder.encoders for encoder in shown},
        videos.videos,
        arguments.out,
        clips[0],
        device=device,
        load_mask=load_mask if masked else None,
        title=TITLES[arguments.map],
    )
    print(f"wrote {arguments.out}")


def _videos(arguments: CamArguments) -> VideoList:
    """The files, and the chosen videos of folders and tables, in the order of the command line."""
    from fima.evaluate.cam import evenly_spread

    videos: list[Video] = []
    for path in arguments.videos:
        found = listed_videos(path, arguments.split)
        videos += evenly_spread(found, arguments.num_videos or len(found))
    root = arguments.videos[0]
    return VideoList(videos=videos, classes=[], root=root, split=arguments.split, layout="videos to show")


def _outputs(videos: VideoList) -> dict[str, Video]:
    """Names of the results: those of the files, after their folder's where several have the same, then numbered."""
    stems = Counter(video.path.stem for video in videos.videos)
    named: dict[str, Video] = {}
    for video in videos.videos:
        stem = video.path.stem
        folder = Path(os.path.abspath(video.path)).parent.name  # noqa: PTH100 - the name of `.` and `..`, links as they are
        unique = stem if stems[stem] == 1 else f"{folder}_{stem}"
        name, number = unique, 2
        while name in named:
            name, number = f"{unique}-{number}", number + 1
        named[name] = video
    return named
