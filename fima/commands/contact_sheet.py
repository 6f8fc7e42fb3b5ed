"""`fima contact-sheet`: the videos of a folder at a glance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fima.commands.parse import OUT
from fima.config.checks import require, require_least
from fima.data.datasets import list_videos
from fima.data.layouts.files import mark_picture
from fima.data.layouts.video_list import counted
from fima.errors import warn
from fima.files.output import OutputFile


@dataclass(frozen=True, kw_only=True)
class ContactSheetArguments:
    """Write one picture of the videos of a folder: one row per video, time from left to right.

    For example: `fima contact-sheet VIDEOS --out sheet.png`.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VIDEOS")]
    """Folder of videos."""
    out: Annotated[OutputFile, OUT]
    """The PNG to write."""
    split: Literal["train", "test", "all"] = "all"
    """Which of the videos."""
    examples_per_class: int = 2
    """Rows per class, if there are classes."""
    num_frames: int = 8
    """Frames per row."""

    def __post_init__(self) -> None:
        require_least(self, examples_per_class=1, num_frames=1)


def main(arguments: ContactSheetArguments) -> None:
    """Run the command."""
    from fima.visual.contact_sheet import contact_sheet
    from fima.visual.overlay import is_picture_name

    require(is_picture_name(arguments.out), "out", arguments.out, "must end in .png")

    videos = list_videos(arguments.data, arguments.split)
    for sentence in videos.warnings():
        warn(sentence)
    mark_picture(arguments.out)
    unreadable = contact_sheet(
        videos, arguments.out, examples_per_class=arguments.examples_per_class, num_frames=arguments.num_frames
    )
    note = f" ({counted(unreadable, 'video')} could not be decoded, shown in grey)" if unreadable else ""
    print(f"wrote {arguments.out}{note}")
