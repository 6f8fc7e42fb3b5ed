"""Which training to begin with, by the number and the length of videos and the hardware."""

import shlex
from collections.abc import Callable, Sequence
from statistics import median

from fima.library.clip_fit import Length

FEWEST_VIDEOS = 100
"""Of fewer, nobody has measured what pre-training adds to `small`."""
RECIPE_VIDEOS = 300
"""Of so many or more, the epochs of the small recipe were enough; fewer videos give fewer steps than were measured."""
FEW_VIDEOS = 1000
LONG_SECONDS = 10.0
"""A clip of 16 frames over most of a longer video shows less than two frames a second."""


def first_training(root: str, lengths: Sequence[Length], has_gpu: Callable[[], bool]) -> str:
    """Name the command that suits these videos, after the table in docs/small_data.md.

    Whether there is a GPU is asked only where that decides.
    """
    if len(lengths) < FEWEST_VIDEOS:
        embed = f"fima embed small {shlex.quote(root)} -o vectors.npz"
        return f"to begin: {embed}  (fewer than {FEWEST_VIDEOS} videos: the package's encoder as it is)"
    command = f"fima pretrain {shlex.quote(root)} --out runs/mine"
    many = len(lengths) >= FEW_VIDEOS
    if many and has_gpu():
        return f"to begin: {command}  (I3D at 224 px, the paper's settings)"
    why = "no GPU" if many else f"fewer than {FEW_VIDEOS:,} videos"
    seconds = [frames / rate for frames, rate in lengths if rate > 0]
    long = bool(seconds) and median(seconds) > LONG_SECONDS
    timing = " --data.span None --data.fps 12.5" if long else ""
    epochs = " --optim.epochs 50" if len(lengths) < RECIPE_VIDEOS else ""
    return f"to begin: {command} --preset small{timing}{epochs}  ({why}{', long videos' if long else ''})"
