"""From video files to batches of views, with the paper's values as defaults."""

import math
from dataclasses import dataclass
from typing import Literal

from fima.config.checks import require, require_least
from fima.errors import ConfigError

Dataset = Literal["auto", "ucf101", "hmdb51", "k400", "diving48", "ssv2", "folder", "table"]
"""Layouts of data sets; `auto` recognises which one lies in a folder."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From video files to batches of views."""

    dataset: Dataset = "auto"
    """Layout of the data; `auto` detects it."""
    split: int = 1
    """Number of the official split, if a data set has several."""
    annotations: str | None = None
    """List file or folder of list files, if they are not with the videos."""
    exclude: str | None = None
    """List of videos to skip, such as `fima doctor --quarantine` writes."""
    part: Literal["train", "all"] = "train"
    """`all` trains on every video, including the test split and videos held out for testing."""
    held_out_share: float = 0.0
    """Share of each class (of all videos, without labels) that is held out of pre-training, in whole groups where a
    table has a column `group`; health checks, and so `best.pt`, then use only these videos. 0: training videos."""
    frames: int = 16
    """Frames F per clip; a clip is a window of 2·F source frames. 0, in fine-tuning: as the encoder was trained."""
    stride: float = 2.0
    """Source frames between neighbouring frames of a clip; the paper's is 2."""
    fps: float = 0.0
    """Frames per second of a clip, instead of `stride`, whatever the rates of the videos; 0: by `stride`."""
    frame_rate: float = 0.0
    """Frame rate of videos whose files do not state one, such as folders of pictures; for `fps`. 0: unknown."""
    span: tuple[float, float] | None = None
    """Share of its video that a clip covers, drawn from this range, instead of `stride`; for short, trimmed videos."""
    clip_sampling: Literal["random", "same", "near"] = "random"
    """The two clips of a video: two random windows; the same window twice; a random window and the one right after."""
    windows_per_video: Literal["auto"] | int = 1
    """Pairs of clips that an epoch takes from a video, each from its own part; `auto`: one for every ten
    seconds of it. The two clips of a pair are near each other."""
    mixing: Literal["proportional", "balanced"] = "proportional"
    """How several sets are sampled: by their numbers of videos times their weights, or by their weights only."""
    step_between_clips: int = 1
    """Windows start at multiples of this many frames."""
    crop_size: int = 224
    """Side of the square views, in pixels. 0, in fine-tuning: as the encoder was trained."""
    min_area: float = 0.2
    """Smallest area of a random crop, as a share of the frame."""
    max_area: float = 1.0
    """Largest area of a random crop, as a share of the frame."""
    flip: float = 0.5
    """Probability that a view is mirrored; 0 where left and right differ in meaning."""
    grayscale: float = 0.2
    """Probability that a view loses its colours."""
    jitter: float = 0.8
    """Probability of colour jitter (brightness, contrast and saturation by up to 0.4, hue by up to 0.1)."""
    blur: float = 0.5
    """Probability of Gaussian blur."""
    workers: int = 4
    """Processes that decode; 0 decodes in the training process."""
    max_skipped_share: float = 0.05
    """The run stops when more than this share of an epoch cannot be decoded, and five videos or more; 0: any."""
    keep_mb: int = 0
    """Decoded videos that each decoding process keeps, in MB: for sets that fit, and devices faster than decoding."""
    timeout_seconds: float = 600.0
    """Time limit for decoding a video, which is then given up, and its process replaced; 0: none."""
    max_frame_pixels: int = 2**25
    """Videos with larger frames, in pixels, are skipped; a frame of 8K has 33 million."""
    max_clip_mb: int = 4096
    """Videos whose clips would need more memory, in MB, to be decoded are skipped."""

    def __post_init__(self) -> None:
        require_least(self, "data.", split=1, step_between_clips=1, workers=0, keep_mb=0, fps=0, frame_rate=0)
        require_least(self, "data.", timeout_seconds=0, max_frame_pixels=1, max_clip_mb=1)
        require(self.frames >= 0, "data.frames", self.frames, "must be at least 1")
        require(self.crop_size >= 8 or self.crop_size == 0, "data.crop_size", self.crop_size, "must be at least 8")
        require(0 < self.min_area <= self.max_area, "data.min_area", self.min_area, "must be in (0, max_area]")
        require(self.max_area <= 1, "data.max_area", self.max_area, "must be at most 1")
        self._check_timing()
        for name in ("flip", "grayscale", "jitter", "blur", "max_skipped_share"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "must be in [0, 1]")
        require(0 <= self.held_out_share < 1, "data.held_out_share", self.held_out_share, "must be in [0, 1)")

    def _check_timing(self) -> None:
        require(0 < self.stride < math.inf, "data.stride", self.stride, "must be greater than 0, and finite")
        windows = self.windows_per_video
        require(windows == "auto" or windows >= 1, "data.windows_per_video", windows, "must be `auto` or at least 1")
        whole = "a span is a share of the whole video, which has one window then"
        require(windows == 1 or self.span is None, "data.windows_per_video", windows, whole)
        span = (1.0, 1.0) if self.span is None else self.span  # of a recipe, it may have any length
        fits = len(span) == 2 and 0 < span[0] <= span[1] <= 1
        require(fits, "data.span", self.span, "two shares, the smaller first, in (0, 1]")
        usual = {"stride": 2, "fps": 0, "span": None}
        ways = [name for name, value in usual.items() if getattr(self, name) != value]
        if len(ways) > 1:
            undone = " or ".join(f"--data.{name} {usual[name]}" for name in ways)
            raise ConfigError(
                f"--data.{' and --data.'.join(ways)}: both time the clips, give one of the three; {undone} takes back "
                "what a recipe sets"
            )
