"""`fima make-data`: write a synthetic data set."""

import time
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fima.config.checks import require_least
from fima.data.layouts.video_list import counted
from fima.files.output import OutputPath


@dataclass(frozen=True, kw_only=True)
class MakeDataArguments:
    """Write a synthetic data set in which the class is the motion, and the background says nothing about it.

    For example: `fima make-data motion-textures DATA --num-train 100 --num-test 50`.
    """

    kind: tyro.conf.Positional[Literal["motion-textures"]]
    """Which data set."""
    out: Annotated[tyro.conf.Positional[OutputPath], tyro.conf.arg(metavar="OUT")]
    """Folder to write; it gets the layout of UCF101."""
    num_train: int = 600
    """Training videos."""
    num_test: int = 400
    """Test videos, each with two counterparts: over another background, and over none."""
    camera: Literal["static", "moving"] = "static"
    """Whether the camera moves too."""
    seed: int = 0
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        require_least(self, num_train=1, num_test=1, seed=0)


def main(arguments: MakeDataArguments) -> None:
    """Run the command."""
    from fima.synthetic.motion_textures import MotionTextureSettings, make_motion_textures

    began = time.monotonic()
    is_new = make_motion_textures(
        arguments.out,
        MotionTextureSettings(
            num_train=arguments.num_train, num_test=arguments.num_test, camera=arguments.camera, seed=arguments.seed
        ),
    )
    tests = f"{counted(arguments.num_test, 'test video')} and two counterparts of each"
    count = f"{counted(arguments.num_train, 'training video')}, {tests}"
    print(f"{arguments.out}: {count}, {f'written in {time.monotonic() - began:.0f} s' if is_new else 'there already'}")
