"""Videos that cost about as much to encode and decode as those of a camera, for benchmarks and stress tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from fima.data.decode.container import ffmpeg_name

FPS = 25


def textured_frames(num_frames: int, height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A textured plane under a moving camera, with grain and a moving disc, uint8 (num_frames, height, width, 3)."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.normal(size=(2 * height, 2 * width, 3)), axes=(0, 1))
    rows, columns = np.fft.fftfreq(2 * height)[:, None, None], np.fft.rfftfreq(2 * width)[None, :, None]
    plane = np.fft.irfft2(spectrum / (0.01 + np.hypot(rows, columns)), axes=(0, 1))
    plane = 128 + 45 * (plane - plane.mean()) / plane.std()
    y, x = np.mgrid[:height, :width]
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    for number in range(num_frames):
        top = round(height / 2 * (1 + np.sin(number / 40)))
        left = round(width / 2 * (1 + np.cos(number / 55)))
        view = plane[top : top + height, left : left + width] + rng.normal(scale=2, size=(height, width, 1))
        disc = np.hypot(y - height / 2 * (1 + 0.6 * np.sin(number / 9)), x - 3 * number % width) < height / 8
        view[disc] = (230, 60, 90)
        frames[number] = view.clip(0, 255)
    return frames


def encode(
    path: Path,
    frames: npt.NDArray[np.uint8],
    codec: str,
    options: dict[str, str],
    *,
    fps: int = FPS,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes frames, uint8 (T, H, W, 3), `fps` a second, with an encoder of FFmpeg and its options."""
    with av.open(ffmpeg_name(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
