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

MAX_FRAME_PIXELS = 2**25
"""A frame of 8K has 33 million pixels."""
MAX_CLIP_MB = 4096
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What one video may take; one that wants more is skipped."""

    timeout_seconds: float = TIMEOUT_SECONDS
    """Seconds to decode it in another process; 0: no limit."""
    max_frame_pixels: int = MAX_FRAME_PIXELS
    """Largest frame."""
    max_clip_mb: int = MAX_CLIP_MB
    """Memory, in MB, of the frames that are read from it at once, as RGB."""

    def __post_init__(self) -> None:
        require_least(self, "limits.", timeout_seconds=0, max_frame_pixels=1, max_clip_mb=1)

    @classmethod
    def of(cls, data: DataConfig) -> DecodeLimits:
        """Those of a training run."""
        return cls(
            timeout_seconds=data.timeout_seconds,
            max_frame_pixels=data.max_frame_pixels,
            max_clip_mb=data.max_clip_mb,
        )

    def check(self, reader: VideoReader, num_frames: int) -> None:
        """Refuse a video of which this many frames take too much memory. Raises VideoError."""
        check_size(reader, num_frames, max_frame_pixels=self.max_frame_pixels, max_clip_mb=self.max_clip_mb)


USUAL_LIMITS = DecodeLimits()


def check_size(
    reader: VideoReader | KeptVideo,
    num_frames: int,
    *,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
    max_clip_mb: int = MAX_CLIP_MB,
) -> None:
    """Raise VideoError for a video whose frames, or so many of them at once as RGB, are larger than allowed."""
    pixels = reader.width * reader.height
    if pixels > max_frame_pixels:
        size = f"{reader.width}x{reader.height}"
        raise VideoError(reader.path, f"frames of {size}, more than the {max_frame_pixels:,} pixels allowed")
    megabytes = 3 * pixels * num_frames / 2**20
    if megabytes > max_clip_mb:
        raise VideoError(reader.path, f"clips of {megabytes:,.0f} MB, more than the {max_clip_mb:,} MB allowed")
