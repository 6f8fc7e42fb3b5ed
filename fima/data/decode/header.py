"""What the header of a video file tells, without decoding; packets are counted only where it lacks their number."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from av.container import InputContainer
from av.video.stream import VideoStream

from fima.data.decode.container import MP4_FORMAT, check_end, open_video, video_packets
from fima.data.decode.frame_folder import FrameFolderReader
from fima.errors import VideoError

MP4_UNIT = 1 << 16
PROGRESSIVE_ORDERS = (0, 1)
MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """The header of one video."""

    num_frames: int
    """Frames that a decoder shows, as far as the header tells."""
    counted: bool
    """Whether packets had to be counted for that."""
    fps: float
    """Average frames per second; 0 where unknown."""
    width: int
    """Pixels, before any rotation."""
    height: int
    """Pixels, before any rotation."""
    duration_seconds: float
    """Duration of the video stream; 0 where unknown."""
    codec: str
    """FFmpeg's name of the decoder."""
    pixel_format: str
    """FFmpeg's name, such as yuv420p."""
    rotation: int
    """Degrees clockwise by which a player turns the frames: 0, 90, 180 or 270; read from MP4 and MOV only."""
    interlaced: bool
    """Whether the stream says that its frames hold two fields each."""


def read_header(path: Path) -> VideoHeader:
    """Read the header of a video file.

    Raises:
        VideoError: the file cannot be opened, has no video stream or no frame, or ends before its last frame.
    """
    if path.is_dir():
        return _of_folder(path)
    container, stream = open_video(path)
    with container:
        frames = _from_index(path, container, stream) or _from_packets(path, container, stream)
        context = stream.codec_context
        return VideoHeader(
            num_frames=frames.num_frames,
            counted=frames.counted,
            fps=frames.fps,
            width=context.width,
            height=context.height,
            duration_seconds=frames.duration_seconds,
            codec=context.name,
            pixel_format=context.pix_fmt or "unknown",
            rotation=_mp4_rotation(path) if container.format.name == MP4_FORMAT else 0,
            interlaced=int(context.field_order) not in PROGRESSIVE_ORDERS,
        )


def _of_folder(path: Path) -> VideoHeader:
    """What a folder of pictures tells: neither rate nor duration."""
    reader = FrameFolderReader(path)
    with reader:
        return VideoHeader(
            num_frames=reader.num_frames,
            counted=False,
            fps=0.0,
            width=reader.width,
            height=reader.height,
            duration_seconds=0.0,
            codec="pictures",
            pixel_format=reader.pixel_format,
            rotation=0,
            interlaced=False,
        )


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """The fields of a header that may need the packets."""

    num_frames: int
    counted: bool
    fps: float
    duration_seconds: float


def _from_index(path: Path, container: InputContainer, stream: VideoStream) -> _Frames | None:
    """What the header tells; None where it has no full index of the frames."""
    num_frames = end = 0
    for entry in stream.index_entries:
        stored = entry.size
        reaches = entry.pos + stored
        if reaches > end:
            end = reaches
        if stored > 0 and not entry.is_discard:
            num_frames += 1
    check_end(path, end)
    if not num_frames or num_frames != stream.frames:
        return None
    fps = float(stream.average_rate or 0)
    duration = _stated_duration(container, stream) or (num_frames / fps if fps else 0.0)
    return _Frames(num_frames=num_frames, counted=False, fps=fps, duration_seconds=duration)


def _from_packets(path: Path, container: InputContainer, stream: VideoStream) -> _Frames:
    """The same by reading all packets, whose times then tell the frame rate as well."""
    num_indexed = len(stream.index_entries)
    shown = [packet.pts for packet in video_packets(path, container, stream) if not packet.is_discard]
    num_frames, times = len(shown), [time for time in shown if time is not None]
    if not num_frames:
        raise VideoError(path, "no frame")
    # AVI announces dropped frames too, but they are not in its index; without a full one, frames are lost.
    if container.format.name == "avi" and num_indexed < num_frames < stream.frames:
        raise VideoError(path, f"truncated or damaged: {num_frames} of {stream.frames} frames can be read")
    time_base = float(stream.time_base or 0)
    start = min(times, default=0) * time_base
    span = (max(times, default=0) * time_base - start) * len(times) / max(1, len(times) - 1)
    fps = num_frames / span if span > 0 else float(stream.average_rate or 0)
    seconds = num_frames / fps if fps else 0.0
    stated = _stated_duration(container, stream) or seconds
    # Some formats state when the last frame ends, others how long the frames last.
    duration = min(stated, stated - start, key=lambda value: abs(value - seconds))
    return _Frames(num_frames=num_frames, counted=True, fps=fps, duration_seconds=duration)


def _stated_duration(container: InputContainer, stream: VideoStream) -> float:
    """Seconds of the video stream, or else of the whole; 0 where the header does not tell."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / MICROSECONDS if container.duration else 0.0


def _mp4_rotation(path: Path) -> int:
    """Rotation of the first video track's matrix (ISO 14496-12, 8.3.2), which PyAV does not hand out."""
    with path.open("rb") as file:
        for moov in _boxes(file, 0, path.stat().st_size, b"moov"):
            for track in _boxes(file, *moov, b"trak"):
                for start, end in _boxes(file, *track, b"tkhd"):
                    file.seek(start)
                    content = file.read(end - start)
                    matrix = 52 if content[:1] == b"\1" else 40
                    a, b = (
                        int.from_bytes(content[matrix + offset : matrix + offset + 4], "big", signed=True)
                        for offset in (0, 4)
                    )
                    shown = any(content[matrix + 36 : matrix + 44])  # the sound has neither width nor height
                    if shown:
                        quarters = {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}
                        return quarters.get((round(a / MP4_UNIT), round(b / MP4_UNIT)), 0)
    return 0


def _boxes(file: BinaryIO, start: int, end: int, kind: bytes) -> list[tuple[int, int]]:
    """Where the contents of the boxes of one kind begin and end, among those between two places of a file."""
    found: list[tuple[int, int]] = []
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        size, content = int.from_bytes(header[:4], "big"), start + 8
        if size == 1:
            size, content = int.from_bytes(header[8:16], "big"), start + 16
        elif size == 0:
            size = end - start
        if size < 8:
            break
        if header[4:8] == kind:
            found.append((content, min(start + size, end)))
        start += size
    return found
