"""Small, real video files for the tests, written with PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

Pixels = npt.NDArray[np.uint8]


def moving_square(num_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> Pixels:
    """Frames that all differ: a bright square over a smooth texture, uint8 (num_frames, height, width, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, 3)
    texture = 90 + 60 * np.sin(rows[..., None] / 7 + phase) * np.cos(columns[..., None] / 9 - phase)
    frames = np.repeat(texture[None].astype(np.uint8), num_frames, axis=0)
    for index, frame in enumerate(frames):
        top, left = (3 * index) % (height - 8), (5 * index) % (width - 8)
        frame[top : top + 8, left : left + 8] = (250, 40 + 7 * index % 200, 255 - 5 * index % 200)
    return frames


def write_video(
    path: Path,
    frames: Pixels,
    *,
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    gop_frames: int = 12,
    b_frames: int = 0,
    timestamps: Sequence[int] | None = None,
    fps: int | Fraction = 25,
) -> Path:
    """Encodes frames; the container follows from the extension.

    Args:
        path: the file to write.
        frames: uint8 (T, H, W, 3).
        codec: FFmpeg's name of the encoder.
        options: its private options.
        gop_frames: frames from one key frame to the next.
        b_frames: B-frames in a row.
        timestamps: when each frame is shown, in 1/1000 s; at equal distances if None.
        fps: frames per second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.gop_size = gop_frames
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        if timestamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = 1 / Fraction(fps) if timestamps is None else Fraction(1, 1000)
            frame.pts = index if timestamps is None else timestamps[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_h264_mp4(path: Path, num_frames: int = 40, seed: int = 0, gop_frames: int = 12) -> Path:
    """H.264 with B-frames that other B-frames refer to, and open groups of pictures."""
    options = {"preset": "veryfast", "x264-params": f"open-gop=1:keyint={gop_frames}:bframes=3:b-pyramid=normal"}
    frames = moving_square(num_frames, seed=seed)
    return write_video(path, frames, codec="libx264", options=options, gop_frames=gop_frames, b_frames=3)


def write_ucf101_avi(path: Path, num_frames: int = 24, seed: int = 0, side: int = 48, gop_frames: int = 250) -> Path:
    """MPEG-4 in AVI as in UCF101: one key frame at the beginning, no B-frames."""
    return write_video(path, moving_square(num_frames, side, side, seed), gop_frames=gop_frames)


def write_uneven_mkv(path: Path, num_frames: int = 40) -> Path:
    """Variable frame rate: distances of 20 to 139 ms between frames."""
    gaps = 20 + np.random.default_rng(0).integers(120, size=num_frames)
    timestamps = [int(time) for time in np.cumsum(gaps)]
    return write_video(path, moving_square(num_frames), codec="libx264", b_frames=2, timestamps=timestamps)


def write_audio_only(path: Path) -> Path:
    """A second of silence, and no video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for start in range(0, 8000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage(path: Path, first_share: float, last_share: float) -> Path:
    """Overwrites a part of a file, given as shares of its length, with noise."""
    content = bytearray(path.read_bytes())
    first, last = int(first_share * len(content)), int(last_share * len(content))
    content[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(bytes(content))
    return path


def truncate(path: Path, share: float) -> Path:
    """Keeps the first `share` of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def decode_all(path: Path) -> Pixels:
    """All frames in the order in which FFmpeg gives them, uint8 (T, H, W, 3); the reference for `VideoReader`."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8)
