"""`--data.fps` against FFmpeg's own `fps` filter, on files whose frames come at odd or uneven times."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph

from fima.data.clips import ClipTiming
from fima.data.decode.video import VideoReader
from tests.odd_videos import write_dropped_frames, write_edit_list, write_late_start, write_packed_avi
from tests.video_files import moving_square, write_uneven_mkv, write_video

UNEVEN_MS = [int(time) for time in np.cumsum(20 + np.random.default_rng(1).integers(120, size=30))]
FRAMES = 4


def uneven(codec: str) -> Callable[[Path], Path]:
    """Writes a file of an uneven rate in a codec whose packets do not tell the frames apart."""
    return lambda path: write_video(path, moving_square(30), codec=codec, timestamps=UNEVEN_MS)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "uneven.mkv": write_uneven_mkv,
    "uneven_ffv1.mkv": uneven("ffv1"),
    "uneven_vp8.mkv": uneven("libvpx"),
    "late.mp4": write_late_start,
    "edit_list.mp4": write_edit_list,
    "dropped.avi": write_dropped_frames,
    "packed.avi": write_packed_avi,
    "ntsc.mp4": lambda path: write_video(path, moving_square(40), codec="libx264", fps=Fraction(30000, 1001)),
    "slow.mp4": lambda path: write_video(path, moving_square(20), codec="libx264", fps=7),
    "camera.mkv": lambda path: write_video(path, moving_square(60), codec="libx264", fps=60),
}


def shown_by_ffmpeg(path: Path, fps: Fraction, rounding: str) -> list[int]:
    """Numbers of the frames of a file that the filter `fps` shows, beginning at the first frame."""
    graph = Graph()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [0 if frame.pts is None else frame.pts for frame in container.decode(stream)]
        base, rate = stream.time_base, stream.average_rate
    assert base is not None
    assert rate is not None
    source = graph.add_buffer(width=16, height=16, format=av.VideoFormat("gray"), time_base=base)
    resample, sink = graph.add("fps", f"fps={fps}:round={rounding}"), graph.add("buffersink")
    source.link_to(resample)
    resample.link_to(sink)
    graph.configure()
    if times != sorted(times):  # packed B-frames have those of the packets: FFmpeg's program counts frames instead
        times = [round(number / rate / base) for number in range(len(times))]
    for number, pts in enumerate(times):
        marked = av.VideoFrame.from_ndarray(np.full((16, 16), number, dtype=np.uint8), format="gray")
        marked.pts, marked.time_base = pts - times[0], base
        source.push(marked)
    source.push(None)
    shown = []
    while True:
        try:
            frame = sink.pull()
            assert isinstance(frame, av.VideoFrame)
            shown.append(int(frame.to_ndarray()[0, 0]))
        except (av.EOFError, av.BlockingIOError):
            return shown


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fps", [Fraction(5), Fraction(25, 2)])
def test_frames_are_those_that_ffmpeg_shows(name: str, fps: Fraction, tmp_path: Path) -> None:
    """Of the 2·F instants, all but those at which the video has ended; FFmpeg's default is half an instant ahead."""
    path = WRITERS[name](tmp_path / name)
    step = 1 / (2 * float(fps))
    with VideoReader(path) as reader:
        indices = ClipTiming(fps=float(fps)).window(reader, FRAMES).indices(0)
        times = reader.frame_times()
        if times is None:
            times = np.arange(reader.num_frames) / reader.fps
    there = sum(number * step <= times[-1] - times[0] for number in range(2 * FRAMES))
    assert there >= 3
    assert indices[:there] == shown_by_ffmpeg(path, 2 * fps, "up")[:there]
    usual = shown_by_ffmpeg(path, 2 * fps, "near")[:there]
    following = [*times[1:], np.inf]
    for number, frame in enumerate(usual):
        instant = times[0] + number * step
        assert times[frame] - step / 2 <= instant < following[frame] + step / 2
