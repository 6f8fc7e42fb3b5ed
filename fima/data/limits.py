"""Limits on what a video may take in memory: a damaged header announces any size."""

from fima.data.video import VideoReader
from fima.errors import VideoError

MAX_FRAME_PIXELS = 2**25
"""A frame of 8K has 33 million pixels."""
MAX_CLIP_MB = 4096


def check_size(
    reader: VideoReader, num_frames: int, *, max_frame_pixels: int = MAX_FRAME_PIXELS, max_clip_mb: int = MAX_CLIP_MB
) -> None:
    """Refuse a video that would take too much memory.

    Args:
        reader: the open video.
        num_frames: frames that are wanted of it at once.
        max_frame_pixels: largest frame.
        max_clip_mb: memory that the frames may take together, as RGB.

    Raises:
        VideoError: its frames, or so many of them, are larger than allowed.
    """
    pixels = reader.width * reader.height
    if pixels > max_frame_pixels:
        size = f"{reader.width}x{reader.height}"
        raise VideoError(reader.path, f"frames of {size}, more than the {max_frame_pixels:,} pixels allowed")
    megabytes = 3 * pixels * num_frames / 2**20
    if megabytes > max_clip_mb:
        raise VideoError(reader.path, f"clips of {megabytes:,.0f} MB, more than the {max_clip_mb:,} MB allowed")
