"""`fima cam`: where encoders look, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from torch import nn

from fima.commands.parse import parse
from fima.data.datasets import list_videos
from fima.data.motion_textures import has_masks, load_mask
from fima.engine.checkpoint import LoadedEncoder, load_encoder
from fima.engine.setup import choose_device
from fima.errors import ConfigError
from fima.evaluation.features import ClipSettings
from fima.visual.cam import side_by_side


@dataclass(frozen=True, kw_only=True)
class CamArguments:
    """Write one picture of class-agnostic activation maps: a row a video, a column a checkpoint."""

    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """One or more checkpoints of `fima pretrain`, trained on the same frames and crop size."""
    data: Path
    """Folder of videos."""
    out: Path
    """The PNG to write."""
    split: Literal["train", "test", "all"] = "all"
    """Which of the videos."""
    num_videos: int = 6
    """Rows, evenly spread over the list of videos."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; or `cpu`, `cuda`, `cuda:1`, …"""

    def __post_init__(self) -> None:
        if self.num_videos < 1:
            raise ConfigError(f"--num_videos {self.num_videos}: must be at least 1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(CamArguments, argv, prog="fima cam")
    if not arguments.checkpoints:
        raise ConfigError("no checkpoint given; `fima cam RUN/checkpoints/last.pt --data DATA --out PNG`")
    device = choose_device(arguments.device, flag="device")
    loaded = {path: load_encoder(path, device=device) for path in arguments.checkpoints}
    videos = list_videos(arguments.data, arguments.split).videos
    count = min(arguments.num_videos, len(videos))
    side_by_side(
        _named(loaded),
        [videos[row * len(videos) // count] for row in range(count)],
        arguments.out,
        _common_settings(loaded),
        device=device,
        load_mask=load_mask if has_masks(arguments.data) else None,
    )
    print(f"wrote {arguments.out}")
    return 0


def _named(loaded: dict[Path, LoadedEncoder]) -> dict[str, nn.Module]:
    """Name the encoders by what they are, or by their files where that does not tell them apart."""
    descriptions = {encoder.description for encoder in loaded.values()}
    if len(descriptions) == len(loaded):
        return {encoder.description: encoder.encoder for encoder in loaded.values()}
    return {str(path): encoder.encoder for path, encoder in loaded.items()}


def _common_settings(loaded: dict[Path, LoadedEncoder]) -> ClipSettings:
    """Return the clips that every checkpoint was trained on; ConfigError where they differ."""
    sizes = {path: (encoder.config.data.frames, encoder.config.data.crop_size) for path, encoder in loaded.items()}
    (first_path, first), *others = sizes.items()
    for path, size in others:
        if size != first:
            raise ConfigError(
                f"{path}: trained on {size[0]} frames of {size[1]} px, {first_path} on {first[0]} of {first[1]} px; "
                "make a picture of each"
            )
    return ClipSettings(frames=first[0], crop_size=first[1], num_clips=1)
