"""How clips of the chosen length and rate fit videos, what fits better, and which training to begin with."""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from fima.config import DataConfig
from fima.data.clips import TIMING, ClipTiming, FrameCount
from fima.data.datasets import Video, VideoList
from fima.data.decode.header import read_header
from fima.data.layouts.video_list import counted
from fima.data.workers.killable_pool import Failed, run_isolated
from fima.errors import ConfigError
from fima.library.index import HEADER_SECONDS

if TYPE_CHECKING:
    from fima.data.eval_clips import ClipSettings

FITTING_SHARE = 0.95
"""Share of the videos that a suggested clip fits."""
UNEVEN_RATES = 1.5
"""A clip's frames by number mean different times where one of twenty videos is faster than another by this factor."""
RATE_TOLERANCE = 1.01
LOOKED_AT = 16
DEFAULT_WHOLE = "--data.span 0.7 1.0"
FEWEST_VIDEOS = 100
"""With 60, pre-training added nothing to the linear probe on `small`, only to neighbours."""
RECIPE_VIDEOS = 300
"""Of so many or more, the epochs of the small recipe were enough; fewer videos give fewer steps than were measured."""
FEW_VIDEOS = 1000
LONG_SECONDS = 10.0
"""A clip of 16 frames over most of a longer video shows less than two frames a second."""
LONG_FPS = 12.5
"""Of the clips of long videos, where these have as many."""

WINDOW_SECONDS = 10.0
"""A recording counts as one video for every so many seconds."""
MOST_WINDOWS = 3_600
"""Windows of one video at most: those of ten hours."""
USUAL_RATE = 25.0

Length = tuple[int, float]
"""Frames of a video, and its frames per second; 0 where unknown."""


@dataclass(frozen=True, kw_only=True)
class ClipFit:
    """How clips fit videos."""

    clips: str
    num_videos: int
    """Videos that were looked at."""
    num_looped: int
    """Those that are shorter than a clip."""
    num_repeating: int
    """Those with fewer frames per second than a clip, which has some of their frames twice."""
    num_without_rate: int
    """Those that cannot be used by `data.fps`, since they do not say their rate."""
    advice: list[str]
    """Settings that fit better, a sentence each."""

    @property
    def line(self) -> str:
        """One line for a person."""
        every, looped = counted(self.num_videos, "video"), self.num_looped
        be = "is" if looped == 1 else "are"
        parts = [f"{looped:,} of {every} {be} shorter and {be} looped" if looped else f"none of {every} is shorter"]
        if self.num_repeating:
            parts.append(f"{_have(self.num_repeating)} fewer frames a second, so that frames repeat")
        if self.num_without_rate:
            parts.append(f"{_have(self.num_without_rate)} no known frame rate: give --data.frame-rate")
        return "; ".join([f"{self.clips}: {parts[0]}", *parts[1:], *self.advice])


def _have(number: int) -> str:
    return f"{number:,} {'has' if number == 1 else 'have'}"


def fit_of(lengths: Sequence[Length], data: DataConfig) -> ClipFit:
    """Compare clips with the lengths and rates of videos; of a range of spans, nothing is looped."""
    known = _known(lengths, data)
    looped, timing = 0, ClipTiming(stride=data.stride, fps=data.fps)
    shown = str(timing) if data.span is None else f"over {data.span[0]:.0%} to {data.span[1]:.0%} of a video"
    for num_frames, rate in known if data.fps else lengths:
        looped += data.span is None and timing.window(FrameCount(num_frames, rate), data.frames).length > num_frames
    return ClipFit(
        clips=f"clips of {data.frames} frames, {shown}",
        num_videos=len(lengths),
        num_looped=looped,
        num_repeating=sum(rate * RATE_TOLERANCE < data.fps for _, rate in known),
        num_without_rate=len(lengths) - len(known) if data.fps else 0,
        advice=[
            *_shorter(lengths, data, looped),
            *_even_rate(sorted(rate for _, rate in known), data),
            *_finer(lengths, data, "--data.span None --data.fps"),
        ],
    )


def _known(lengths: Sequence[Length], data: DataConfig) -> list[Length]:
    """Those whose rate is known, if only by the settings."""
    return [(frames, rate or data.frame_rate) for frames, rate in lengths if rate or data.frame_rate]


def _shorter(lengths: Sequence[Length], data: DataConfig, looped: int) -> list[str]:
    """What fits all videos but one in twenty, where the clips do not."""
    if looped <= (1 - FITTING_SHARE) * len(lengths):
        return []
    place = int((1 - FITTING_SHARE) * len(lengths))
    if data.fps:
        known = _known(lengths, data)
        fps = math.ceil(2 * data.frames / sorted(frames / rate for frames, rate in known)[place]) / 2
        better = f"--data.fps {fps:g}" if fps <= min(rate for _, rate in known) else DEFAULT_WHOLE
    else:
        stride = math.floor(2 * sorted(frames for frames, _ in lengths)[place] / data.frames) / 2
        better = f"--data.stride {stride:g}" if stride >= 1 else DEFAULT_WHOLE
    return [f"{better} fits {FITTING_SHARE:.0%} of them"]


def _even_rate(rates: Sequence[float], data: DataConfig) -> list[str]:
    """A rate of clips, where those of the videos, rising, differ and clips count frames."""
    if data.fps or data.span is not None or not rates:
        return []
    last = len(rates) - 1
    slow, middle, fast = (rates[int(share * last)] for share in (1 - FITTING_SHARE, 0.5, FITTING_SHARE))
    if fast < UNEVEN_RATES * slow:
        return []
    fps = math.floor(2 * min(middle / data.stride, slow)) / 2
    return [f"frame rates differ ({slow:g} to {fast:g} a second): --data.fps {fps:g} shows motion at one speed"]


def _finer(lengths: Sequence[Length], data: DataConfig, flags: str) -> list[str]:
    """How far apart the frames of a clip are that covers a share of a long video, the median one, and a remedy."""
    known = _known(lengths, data)
    if data.span is None or not known or (seconds := median(frames / rate for frames, rate in known)) <= LONG_SECONDS:
        return []
    apart, fps = seconds * sum(data.span) / 2 / data.frames, _long_fps([rate for _, rate in known])
    sentence = f"in a video of median length ({seconds:,.0f} s) the frames of a clip are {apart:,.1f} s apart"
    return [f"{sentence}; {flags} {fps:g} makes clips of {data.frames / fps:.1f} s"]


def _long_fps(rates: Sequence[float]) -> float:
    """Frames per second of a clip of a long video, which nearly all of the videos have."""
    return min(LONG_FPS, sorted(rates)[int((1 - FITTING_SHARE) * len(rates))])


def with_timing_checked(videos: VideoList, data: DataConfig) -> VideoList:
    """Compare timing that is not the paper's with a few videos of each set; the list gets a note where some do not fit.

    Raises ConfigError where none of a set fits: a clip is longer, or has more frames a second, than every one.
    """
    plan, notes = videos.epoch, list(videos.notes)
    if not plan.timings:
        return replace(videos, notes=[*notes, *_notes(videos.videos, data)])
    for name, part, own in zip(plan.names, videos.by_set().values(), plan.settings(data), strict=True):
        try:
            notes += [f"{name}: {note}" for note in _notes(part.videos, own)]
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return replace(videos, notes=notes)


def _notes(videos: Sequence[Video], data: DataConfig) -> list[str]:
    default = DataConfig()
    given = [name for name in TIMING if getattr(data, name) != getattr(default, name)]
    if not given:
        return []
    lengths = _lengths([video.path for video in videos])
    if not lengths:
        return []
    fit = fit_of(lengths, data)
    if data.span is not None:  # whatever its length, a video is as long as its clip
        shares = " ".join(f"{share:g}" for share in data.span)
        return [f"--data.span {shares}: {sentence}" for sentence in fit.advice]
    flag = f"--data.{given[0]} {getattr(data, given[0]):g}"
    seen = f"the {counted(len(lengths), 'video')} that were looked at"
    if fit.num_repeating == len(lengths):
        fastest = max(rate or data.frame_rate for _, rate in lengths)
        raise ConfigError(f"{flag}: more than any of {seen} has ({fastest:g} at most); frames would repeat; give less")
    if fit.num_looped == len(lengths):
        longest = max(frames for frames, _ in lengths)
        advice = "; ".join(["", *fit.advice])
        clip = f"a clip of {data.frames} frames is longer than any of {seen}"
        raise ConfigError(f"{flag}: {clip} ({longest} frames){advice}")
    return [f"{flag}: {fit.line}"] if fit.num_looped or fit.num_repeating else []


def coarse_clips(paths: Sequence[Path], clips: "ClipSettings") -> str | None:
    """Say how far apart the frames of clips are that cover a share of long videos, and what to give instead."""
    if not clips.span:
        return None
    data = replace(DataConfig(), frames=clips.frames, span=(clips.span, clips.span), frame_rate=clips.frame_rate)
    return next(iter(_finer(_lengths(paths), data, "--fps")), None)


def _lengths(paths: Sequence[Path]) -> list[Length]:
    """Length and rate of a few of the videos, evenly spread over the list."""
    count = min(LOOKED_AT, len(paths))
    chosen = [paths[number * len(paths) // count] for number in range(count)]
    outcomes = run_isolated(read_header, chosen, workers=1, timeout_seconds=HEADER_SECONDS, items_at_once=count)
    return [(found.num_frames, found.fps) for _, found in outcomes if not isinstance(found, Failed)]


def windows_by_length(num_frames: int, fps: float) -> int:
    """How many windows `auto` takes of a video; a rate of 0 is unknown."""
    return min(MOST_WINDOWS, max(1, round(num_frames / (fps or USUAL_RATE) / WINDOW_SECONDS)))


def first_classifier(root: str, lengths: Sequence[Length], num_classes: int) -> str | None:
    """Name the command that trains a classifier on few and short videos; None for others, or without classes."""
    if num_classes < 2 or len(lengths) >= FEW_VIDEOS or _are_long(lengths):
        return None
    command = f"fima finetune small {shlex.quote(root)} --out runs/classifier --preset small_finetune"
    return f"with labels: {command}  ({num_classes} classes)"


def _are_long(lengths: Sequence[Length]) -> bool:
    known = [frames / rate for frames, rate in lengths if rate > 0]
    return bool(known) and median(known) > LONG_SECONDS


def _count(lengths: Sequence[Length]) -> int:
    """How many videos there are; of long ones, windows."""
    return sum(windows_by_length(*length) for length in lengths) if _are_long(lengths) else len(lengths)


def suits_paper(lengths: Sequence[Length], has_gpu: Callable[[], bool]) -> bool:
    """Whether the paper's settings suit: many videos and a GPU, which is asked for only where that decides."""
    return _count(lengths) >= FEW_VIDEOS and has_gpu()


def first_training(root: str, lengths: Sequence[Length], has_gpu: Callable[[], bool]) -> str:
    """Name the command that suits these videos, after the table in docs/small_data.md; GPUs as in `suits_paper`."""
    long, number = _are_long(lengths), _count(lengths)
    counted_as = f"windows of {WINDOW_SECONDS:g} seconds" if long else "videos"
    if number < FEWEST_VIDEOS:
        each = " --per second" if long else ""
        embed = f"fima embed small {shlex.quote(root)} -o vectors.npz{each}"
        return f"to begin: {embed}  (fewer than {FEWEST_VIDEOS} {counted_as}: the package's encoder as it is)"
    command = f"fima pretrain {shlex.quote(root)} --out runs/mine"
    windows, fits = (" --data.windows-per-video auto", "long videos") if long else ("", "clips fit any length")
    if suits_paper(lengths, has_gpu):
        return f"to begin: {command}{windows}  (I3D at 224 px, the paper's settings)"
    timing = f" --data.span None --data.fps {_long_fps([rate for _, rate in lengths if rate > 0]):g}" if long else ""
    why = "no GPU" if number >= FEW_VIDEOS else f"fewer than {FEW_VIDEOS:,} {counted_as}"
    epochs = " --optim.epochs 50" if number < RECIPE_VIDEOS else ""
    return f"to begin: {command} --preset small{timing}{windows}{epochs}  ({why}; {fits})"
