"""Limits on what a video may take in memory: a damaged header announces any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fima.config.checks import require_least
from fima.errors import VideoError

if TYPE_CHECKING:
    from fima.config import DataConfig
    from fima.data.decode.kept import KeptVideo
    from fima.data.decode.video import VideoReader


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What one video may take; one that wants more is skipped."""

    timeout_seconds: float = 600.0
    """Seconds to decode it in another process; 0: no limit."""
    max_frame_pixels: int = 2**25
    """Largest frame; one of 8K has 33 million."""
    max_clip_mb: int = 4096
    """Memory, in MB, of the frames that are read from it at once, as RGB."""

    def __post_init__(self) -> None:
        require_least(self, "limits.", timeout_seconds=0, max_frame_pixels=1, max_clip_mb=1)

    @classmethod
    def of(cls, data: DataConfig) -> DecodeLimits:
        """Those of a training run."""
        return cls(**{name: getattr(data, name) for name in vars(USUAL_LIMITS)})

    def check(self, reader: VideoReader | KeptVideo, num_frames: int) -> None:
        """Raise VideoError for a video whose frames, or so many of them at once as RGB, are larger than allowed."""
        pixels = reader.width * reader.height
        if pixels > self.max_frame_pixels:
            size = f"{reader.width}x{reader.height}"
            raise VideoError(reader.path, f"frames of {size}, more than the {self.max_frame_pixels:,} pixels allowed")
        megabytes = 3 * pixels * num_frames / 2**20
        if megabytes > self.max_clip_mb:
            reason = f"clips of {megabytes:,.0f} MB, more than the {self.max_clip_mb:,} MB allowed"
            raise VideoError(reader.path, reason)


USUAL_LIMITS = DecodeLimits()
