import random
import tracemalloc
from array import array
from pathlib import Path

import pytest

from fima.data.decode import packets
from fima.data.decode.packets import FrameIndex
from fima.data.decode.video import VideoReader
from tests.video_files import moving_square, write_video

BYTES_PER_FRAME = 48
"""What a further frame may take at most: its timestamps twice, sorted once more; a Python number alone takes 32."""


def peak_bytes(path: Path, num_frames: int) -> int:
    """The most memory of Python objects while all frames of a video are read one after another."""
    tracemalloc.start()
    try:
        with VideoReader(path) as reader:
            assert sum(1 for _ in reader.stream()) == num_frames
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_longer_video_takes_hardly_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "KEPT_BYTES", 20 * packets.PACKET_OBJECT_BYTES)
    peaks = []
    for num_frames in (500, 4000):
        frames = moving_square(num_frames, 16, 16)
        path = write_video(tmp_path / f"{num_frames}.mp4", frames, codec="libx264", options={"preset": "ultrafast"})
        peak_bytes(path, num_frames)  # what is made once, in the libraries
        peaks.append(peak_bytes(path, num_frames))
    assert peaks[1] - peaks[0] < BYTES_PER_FRAME * 3500


def test_decoding_begins_at_the_last_key_packet_shown_no_later() -> None:
    draw = random.Random(0)
    for _ in range(50):
        times = [0, *draw.sample(range(1, 200), 60)]
        shown = [time for time in times if time < 150 or time % 2]
        keys = [0, *sorted(draw.sample(range(1, 61), 8))]
        index = FrameIndex(array("q", shown), [(number, times[number]) for number in keys])
        assert len(index) == len(shown)
        for frame, time in enumerate(sorted(shown)):
            assert index.frame_at(time) == frame
            best = max(number for number in keys if times[number] <= time)
            assert index.start_for(frame) == (best, times[best])


def test_frames_far_apart_are_decoded_from_key_frames_of_their_own() -> None:
    index = FrameIndex(array("q", range(0, 1000, 10)), [(number, 10 * number) for number in range(0, 100, 20)])
    assert list(index.runs(range(100))) == [range(100)]
    assert list(index.runs([3, 4, 7, 19, 21, 59])) == [[3, 4, 7, 19, 21], [59]]
    assert list(index.runs([15, 20, 25])) == [[15], [20, 25]]
    assert list(index.runs([16, 20, 25])) == [[16, 20, 25]]
