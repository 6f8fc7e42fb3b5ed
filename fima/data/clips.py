"""Which frames a clip takes from a video: index arithmetic only.

    window      0 1 2 3 4 5 6 7      2·F consecutive frames (here F = 4)
    full        0   2   4   6        every second frame
    early       0 1 2 3              the first F frames
    late                4 5 6 7      the last F frames

A video shorter than the window is looped: frame i of the window is frame i mod num_frames of the video.
"""

from typing import Literal

import numpy as np


def window_starts(
    num_frames: int,
    window: int,
    generator: np.random.Generator,
    *,
    sampling: Literal["random", "same", "near"] = "random",
    step_frames: int = 1,
) -> tuple[int, int]:
    """First frames of the two clips of a video.

    Args:
        num_frames: frames of the video.
        window: frames of a window.
        generator: source of the draws.
        sampling: `random`, two different random starts in random order; `same`, one random start for both clips;
            `near`, a random start and the one that is a window later, or the last one.
        step_frames: starts are multiples of it.

    Returns:
        Two starts in [0, num_frames - window]; (0, 0) where only one window is possible.
    """
    num_starts = max(0, num_frames - window) // step_frames + 1
    if num_starts == 1:
        return 0, 0
    first = int(generator.integers(num_starts))
    if sampling == "same":
        second = first
    elif sampling == "near":
        second = min(first + max(1, window // step_frames), num_starts - 1)
    else:
        second = int(generator.integers(num_starts - 1))
        second += second >= first
    return first * step_frames, second * step_frames


def window_indices(start: int, window: int, num_frames: int) -> list[int]:
    """Frame numbers of the window that begins at `start`, looped where the video is too short."""
    return [(start + offset) % num_frames for offset in range(window)]


def full_positions(frames: int) -> slice:
    """Positions of the `full` view in a window of 2·frames frames: every second one."""
    return slice(0, 2 * frames, 2)


def early_positions(frames: int) -> slice:
    """Positions of the `early` view in a window of 2·frames frames: the first half."""
    return slice(0, frames)


def late_positions(frames: int) -> slice:
    """Positions of the `late` view in a window of 2·frames frames: the second half."""
    return slice(frames, 2 * frames)


def evenly_spread_starts(num_frames: int, window: int, num_clips: int) -> list[int]:
    """First frames of `num_clips` windows, from the beginning to the end of the video at equal distances.

    Args:
        num_frames: frames of the video.
        window: frames of a window.
        num_clips: windows; a single one lies in the middle.

    Returns:
        `num_clips` starts in [0, max(0, num_frames - window)], in rising order; repeats where the video is short.
    """
    last = max(0, num_frames - window)
    if num_clips == 1:
        return [last // 2]
    return [(2 * clip * last + num_clips - 1) // (2 * (num_clips - 1)) for clip in range(num_clips)]
