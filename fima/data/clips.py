"""Which frames a clip takes from a video: index arithmetic only.

    window      0 1 2 3 4 5 6 7      2·F consecutive frames (here F = 4)
    full        0   2   4   6        every second frame
    early       0 1 2 3              the first F frames
    late                4 5 6 7      the last F frames

A video shorter than the window is looped: frame i of the window is frame i mod num_frames of the video.

That is the published timing, at which neighbours in `full` are two frames of the video apart. `ClipTiming` changes it:
a window has 2·F instants, whatever the distance between them, and each shows the frame of the video at that instant.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fima.errors import VideoError

if TYPE_CHECKING:
    from fima.data.decode.video import VideoReader

Frame = TypeVar("Frame")
Kept = TypeVar("Kept")

PUBLISHED_STRIDE = 2.0
TIMING = ("stride", "fps", "span")
"""Settings of the data that say how far apart the frames of a clip lie; at most one of them is given."""
FULL = slice(None, None, 2)
"""Positions of the `full` view in a window: every second one."""
ROUNDING = 1e-6
"""Guards whole numbers of frames against being computed a little too large or too small."""

TimedVideo: TypeAlias = "VideoReader | FrameCount"
"""What the timing of clips depends on: frames, their rate and their times, and a path for messages."""


@dataclass(frozen=True)
class Part:
    """One of the equal parts of a video."""

    number: int = 0
    count: int = 1


WHOLE = Part()


@dataclass(frozen=True)
class FrameCount:
    """A video of which only the number of frames is known, and perhaps their rate and times."""

    num_frames: int
    fps: float = 0.0
    path: Path = Path("video")
    times: npt.NDArray[np.float64] | None = None
    """Seconds at which each frame is shown; None where the rate is even."""

    def frame_times(self) -> npt.NDArray[np.float64] | None:
        """The times, as `VideoReader` gives them."""
        return self.times


@dataclass(frozen=True, kw_only=True)
class Window:
    """The 2·F instants of a clip in one video."""

    length: int
    """Frames of the video from the first instant to the end of the last one, at its mean rate."""
    spacing: float
    """Frames of the video between two instants; 1 as published."""
    num_frames: int
    num_instants: int
    """2·F."""
    times: npt.NDArray[np.float64] | None = None
    """Seconds at which the frames are shown, where instants are seconds and frames come at a varying rate."""
    seconds: float = 0.0
    """Seconds between two instants, where `times` are given."""

    @property
    def reach(self) -> int:
        """Frames from the last one with which a window may begin to the video's end; more than all, where it is short.

        That is the length, but where frames come at an uneven rate, or at another than the mean that is stated.
        """
        if self.times is None:
            return self.length
        room = _duration(self.times) - self.num_instants * self.seconds + ROUNDING
        last = int(np.searchsorted(self.times - self.times[0], room, side="right")) - 1
        return self.num_frames - last if last >= 0 else max(self.length, self.num_frames)

    def indices(self, start: int) -> list[int]:
        """Frame numbers of the window that begins at `start`, 2·F of them; looped where the video is too short."""
        if self.times is None:
            steps = (math.floor(instant * self.spacing + ROUNDING) for instant in range(self.num_instants))
            return [(start + step) % self.num_frames for step in steps]
        first, duration = self.times[0], _duration(self.times)
        instants = self.times[start] - first + np.arange(self.num_instants) * self.seconds + ROUNDING
        shown = np.searchsorted(self.times, first + instants % max(duration, ROUNDING), side="right") - 1
        return [int(number) for number in shown]


@dataclass(frozen=True, kw_only=True)
class ClipTiming:
    """How far apart the frames of a clip lie in its video."""

    stride: float = PUBLISHED_STRIDE
    """Frames of the video between neighbours in `full`."""
    fps: float = 0.0
    """Frames per second in `full`, whatever the rate of the video; 0: by `stride`."""
    frame_rate: float = 0.0
    """Frames per second of videos that do not say theirs."""
    span: float = 0.0
    """Share of the video that a window covers, whatever its length; 0: by `fps` or `stride`."""

    @property
    def by_rate(self) -> bool:
        """Whether the frame rate of a video decides which of its frames are in a clip."""
        return bool(self.fps) and not self.span

    @property
    def rule(self) -> dict[str, float]:
        """The one value that counts, by name: what other programs need to time clips alike."""
        if self.span:
            return {"span": self.span}
        return {"frames_per_second": self.fps} if self.fps else {"frame_stride": self.stride}

    def __str__(self) -> str:
        if self.span:
            return f"over {self.span:.0%} of a video"
        return f"{self.fps:g} a second" if self.fps else f"stride {self.stride:g}"

    def window(self, video: TimedVideo, frames: int) -> Window:
        """The window of a clip of F frames in a video. Raises VideoError for `fps` and a video without frame rate."""
        num_instants, times = 2 * frames, None
        if self.span:
            spacing = self.span * video.num_frames / num_instants
        elif self.by_rate:
            rate = video.fps or self.frame_rate
            if not rate > 0:
                reason = f"has no frame rate, which clips of {self.fps:g} frames a second need"
                raise VideoError(video.path, f"{reason}; give --frame-rate, in training --data.frame-rate")
            spacing, times = rate / (2 * self.fps), video.frame_times()
        else:
            spacing = self.stride / 2
        return Window(
            length=max(1, math.ceil(num_instants * spacing - ROUNDING)),
            spacing=spacing,
            num_frames=video.num_frames,
            num_instants=num_instants,
            times=times,
            seconds=1 / (2 * self.fps) if times is not None else 0.0,
        )


def _duration(times: npt.NDArray[np.float64]) -> float:
    """Seconds from the first of the times to the end of the last frame, which is shown as long as the mean."""
    return float(times[-1] - times[0]) * len(times) / max(1, len(times) - 1)


def window_starts(
    num_frames: int,
    window: int,
    generator: np.random.Generator,
    *,
    sampling: Literal["random", "same", "near"] = "random",
    step_frames: int = 1,
    part: Part = WHOLE,
) -> tuple[int, int]:
    """First frames of the two clips of a video, whose windows take `window` frames each.

    Sampling is `random`: two different random starts in random order; `same`: one random start for both clips; `near`:
    a random start and the one that is a window later, or the last one. Starts are multiples of `step_frames` in [0,
    num_frames - window], in a part of the video; they are the same where only one window is possible.
    """
    all_starts = max(0, num_frames - window) // step_frames + 1
    begin, end = (number * all_starts // part.count for number in (part.number, part.number + 1))
    num_starts = max(1, end - begin)
    if num_starts == 1:
        return begin * step_frames, begin * step_frames
    first = int(generator.integers(num_starts))
    if sampling == "same":
        second = first
    elif sampling == "near":
        second = min(first + max(1, window // step_frames), num_starts - 1)
    else:
        second = int(generator.integers(num_starts - 1))
        second += second >= first
    return (begin + first) * step_frames, (begin + second) * step_frames


def evenly_spread_starts(num_frames: int, window: int, num_clips: int) -> list[int]:
    """First frames of `num_clips` windows, from the beginning to the end of the video; a single one lies in the middle.

    Starts rise at equal distances in [0, max(0, num_frames - window)], and repeat where the video is short.
    """
    last = max(0, num_frames - window)
    if num_clips == 1:
        return [last // 2]
    return [(2 * clip * last + num_clips - 1) // (2 * (num_clips - 1)) for clip in range(num_clips)]


def in_one_pass(
    frames: Iterable[Frame], clips: Sequence[Sequence[int]], keep: Callable[[Frame], Kept]
) -> Iterator[list[Kept]]:
    """Gather clips that may overlap from all frames of a video, holding only those still needed.

    Clips are lists of frame numbers, in the order of their first frames. Yields, for each, what was kept of its frames.
    """
    needed = {number for clip in clips for number in clip}
    ends = [max(clip) for clip in clips]
    held: dict[int, Kept] = {}
    position = 0
    for number, frame in enumerate(frames):
        if number in needed:
            held[number] = keep(frame)
        while position < len(clips) and ends[position] <= number:
            yield [held[wanted] for wanted in clips[position]]
            position += 1
            first = min(clips[position]) if position < len(clips) else number + 1
            for old in [kept for kept in held if kept < first]:
                del held[old]
