"""Clips other than those of the settings, or than those that an encoder was trained on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fima.config import DataConfig
from fima.data.clips import TIMING
from fima.errors import ConfigError

if TYPE_CHECKING:
    from fima.data.eval_clips import ClipSettings


def with_clips(data: DataConfig, given: Mapping[str, Any]) -> DataConfig:
    """The settings with other clips, where one way of timing them replaces another. Raises ConfigError."""
    usual = {name: getattr(DataConfig(), name) for name in TIMING} if given.keys() & set(TIMING) else {}
    return replace(data, **{**usual, **given})


def timed(clips: "ClipSettings", window: str) -> "ClipSettings":
    """Return clips timed as a window such as `stride=2`, `fps=12.5` or `span=0.5` says. Raises ConfigError."""
    name, _, value = window.partition("=")
    try:
        given: Any = {TIMING[TIMING.index(name)]: float(value)}
    except ValueError:
        raise ConfigError(f"--other-windows {window}: write it as stride=2, fps=12.5 or span=0.5") from None
    return ClipOverrides(**given).applied_to(clips)


@dataclass(frozen=True, kw_only=True)
class ClipOverrides:
    """What is given of size and timing of the clips; None: as in training."""

    frames: int | None = None
    """Frames per clip. None: as in training; 16 where the checkpoint does not say."""
    crop_size: int | None = None
    """Side of the crops, in pixels. None: as in training; 224 where the checkpoint does not say."""
    stride: float | None = None
    """Source frames between neighbouring frames of a clip. None: as in training, as with `fps` and `span`; give at most
    one of the three."""
    fps: float | None = None
    """Frames per second of a clip."""
    span: float | None = None
    """Share of the video that a clip covers."""
    frame_rate: float | None = None
    """Frame rate of videos whose files do not state one, such as folders of pictures, for `fps`. None: as in
    training."""

    def __post_init__(self) -> None:
        timings = [name for name in TIMING if getattr(self, name) is not None]
        if len(timings) > 1:
            raise ConfigError(f"--{timings[0]} and --{timings[1]}: both say how far apart frames are; give one")
        for name in timings:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"--{name} {getattr(self, name):g}: must be above 0, and finite")
        if self.frame_rate is not None and not self.frame_rate >= 0:
            raise ConfigError(f"--frame-rate {self.frame_rate:g}: must be 0 or more")

    def applied_to(self, trained: "ClipSettings") -> "ClipSettings":
        """Return the clips for an encoder that was trained on such ones. Raises ConfigError for a size below theirs."""
        names = ("frames", "crop_size", "frame_rate", *TIMING)
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        other_timing = {"fps": 0.0, "span": 0.0} if given.keys() & set(TIMING) else {}
        return replace(trained, **{**other_timing, **given})
