import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fima.data.clips import (
    FULL,
    ClipTiming,
    FrameCount,
    Part,
    Window,
    evenly_spread_starts,
    in_one_pass,
    window_starts,
)
from fima.errors import VideoError


def test_the_three_views_of_a_window() -> None:
    window = list(range(100, 108))
    assert window[FULL] == [100, 102, 104, 106]
    assert window[:4] == [100, 101, 102, 103]
    assert window[4:] == [104, 105, 106, 107]


def test_starts_differ_and_every_pair_occurs() -> None:
    rng = np.random.default_rng(0)
    pairs = Counter(window_starts(12, 10, rng) for _ in range(600))
    assert set(pairs) == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}
    assert min(pairs.values()) > 60


@pytest.mark.parametrize("num_frames", [1, 9, 10])
def test_a_single_possible_start_serves_both_clips(num_frames: int) -> None:
    assert window_starts(num_frames, 10, np.random.default_rng(0)) == (0, 0)


def test_short_videos_are_looped() -> None:
    assert ClipTiming().window(FrameCount(3), 4).indices(0) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert ClipTiming().window(FrameCount(1), 2).indices(0) == [0, 0, 0, 0]
    assert ClipTiming().window(FrameCount(9), 2).indices(5) == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("stride", "full"), [(1, [3, 4, 5, 6]), (2, [3, 5, 7, 9]), (3, [3, 6, 9, 12]), (4.5, [3, 7, 12, 16])]
)
def test_stride_is_the_distance_of_the_frames_of_a_clip(stride: float, full: list[int]) -> None:
    window = ClipTiming(stride=stride).window(FrameCount(100), 4)
    assert window.indices(3)[FULL] == full
    assert window.length == 4 * stride


def test_frames_per_second_count_in_seconds_whatever_the_rate() -> None:
    for rate in (10.0, 25.0, 60.0):
        window = ClipTiming(fps=5).window(FrameCount(200, rate), 4)
        assert window.indices(20)[FULL] == [int(20 + second * rate) for second in (0, 0.2, 0.4, 0.6)]
        assert window.length == 0.8 * rate
    slow = ClipTiming(fps=10).window(FrameCount(200, 5.0), 4)
    assert slow.indices(0) == [0, 0, 0, 0, 1, 1, 1, 1]


def uneven(times: tuple[float, ...], rate: float = 0.0) -> FrameCount:
    mean = len(times) / (times[-1] - times[0])
    return FrameCount(len(times), rate or mean, path=Path("uneven.mkv"), times=np.array(times))


def test_frames_of_an_uneven_rate_are_those_shown_at_the_instant() -> None:
    times = (10.0, 10.1, 10.2, 10.3, 11.0, 11.9, 12.0)
    window = ClipTiming(fps=1).window(uneven(times), 2)
    assert window.seconds == 0.5
    assert [times[number] for number in window.indices(0)] == [10.0, 10.3, 11.0, 11.0]
    assert window.indices(4)[:3] == [4, 4, 6]


def test_no_clip_of_a_long_video_reaches_past_its_end_at_an_uneven_rate() -> None:
    """Ten frames a second, then thirty: the mean rate would count a window of two seconds shorter than it is."""
    times = (*(i / 10 for i in range(100)), *(10 + i / 30 for i in range(100)))
    video = uneven(times)
    window = ClipTiming(fps=10).window(video, 20)
    start = evenly_spread_starts(video.num_frames, window.reach, 2)[-1]
    shown = window.indices(start)
    assert shown == sorted(shown)
    # It shows the last two seconds: 60 frames, and those of which the last is shown as long as the mean.
    assert times[shown[-1]] == pytest.approx(times[start] + 39 / 20, abs=0.1)
    assert shown[-1] >= 196
    # A rate in the header that is 8 % below that of the frames.
    constant = uneven(tuple(i / 27 for i in range(250)), rate=25.0)
    window = ClipTiming(fps=12.5).window(constant, 16)
    shown = window.indices(constant.num_frames - window.reach)
    assert shown == sorted(shown)


def test_a_short_video_of_an_uneven_rate_is_looped_after_the_duration_of_its_frames() -> None:
    """Three frames in 5 to 7 s last 3 s in all, the last one as long as the mean of the others."""
    short = ClipTiming(fps=1).window(uneven((5.0, 5.6, 7.0)), 4)
    instants = [start % 3 for start in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)]
    assert short.indices(0) == [2 if instant >= 2 else 1 if instant >= 0.6 else 0 for instant in instants]
    assert ClipTiming(fps=2).window(uneven((5.0, 6.0)), 4).indices(0) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert ClipTiming(fps=1).window(uneven((5.0, 6.0)), 3).indices(0) == [0, 0, 1, 1, 0, 0]


def test_a_window_knows_its_timing() -> None:
    assert ClipTiming().window(FrameCount(10), 4) == Window(length=8, spacing=1, num_frames=10, num_instants=8)
    assert ClipTiming(stride=1).window(FrameCount(10), 1) == Window(
        length=1, spacing=0.5, num_frames=10, num_instants=2
    )
    slow = ClipTiming(fps=1).window(FrameCount(10, 0.5), 4)
    assert (slow.spacing, slow.length, slow.seconds) == (0.25, 2, 0)


def test_a_span_covers_its_share_of_every_video() -> None:
    for num_frames in (15, 64, 143):
        window = ClipTiming(span=0.75).window(FrameCount(num_frames), 8)
        shown = window.indices(0)
        assert shown == sorted(shown)
        assert len(shown) == 16
        assert window.length == math.ceil(0.75 * num_frames)
        assert 0 <= window.length - 1 - shown[-1] < window.spacing + 1
    assert ClipTiming(span=1).window(FrameCount(32), 16).indices(0) == list(range(32))


def test_a_video_without_a_rate_has_no_seconds() -> None:
    said = r"^video: has no frame rate, .* 5 frames .*; give --frame-rate, in training --data\.frame-rate$"
    with pytest.raises(VideoError, match=said):
        ClipTiming(fps=5).window(FrameCount(10, 0.0), 4)


def test_evenly_spread_starts() -> None:
    assert evenly_spread_starts(42, 32, 3) == [0, 5, 10]
    assert evenly_spread_starts(42, 32, 2) == [0, 10]
    assert evenly_spread_starts(42, 32, 1) == [5]
    assert [*map(repr, evenly_spread_starts(11, 4, 1))] == ["3"], "a whole number"
    assert evenly_spread_starts(9, 4, 3) == [0, 3, 5], "a half is rounded up"
    assert evenly_spread_starts(32, 32, 4) == [0, 0, 0, 0]
    assert evenly_spread_starts(5, 32, 2) == [0, 0]


def test_the_same_window_serves_both_clips() -> None:
    generator = np.random.default_rng(0)
    starts = {window_starts(20, 8, generator, sampling="same") for _ in range(200)}
    assert starts == {(start, start) for start in range(13)}


def test_near_windows_follow_each_other_or_end_the_video() -> None:
    generator = np.random.default_rng(0)
    starts = {window_starts(20, 8, generator, sampling="near") for _ in range(300)}
    assert starts == {(start, min(start + 8, 12)) for start in range(13)}
    steps = {window_starts(20, 8, generator, sampling="near", step_frames=5) for _ in range(100)}
    assert {repr(pair) for pair in steps} == {"(0, 5)", "(5, 10)", "(10, 10)"}


def test_starts_are_multiples_of_the_step() -> None:
    generator = np.random.default_rng(0)
    pairs = [window_starts(20, 8, generator, step_frames=5) for _ in range(100)]
    assert {start for pair in pairs for start in pair} == {0, 5, 10}
    assert all(first != second for first, second in pairs)
    assert window_starts(12, 8, generator, step_frames=5) == (0, 0)


def test_starts_in_a_part_of_a_video_are_its_own() -> None:
    generator = np.random.default_rng(0)
    pairs = [window_starts(108, 8, generator, step_frames=5, part=Part(number=1, count=3)) for _ in range(300)]
    assert {start for pair in pairs for start in pair} == {35, 40, 45, 50, 55, 60, 65}
    assert window_starts(18, 8, generator, step_frames=5, part=Part(number=2, count=3)) == (10, 10)


class Kept:
    """What is kept of a frame; counts how many are held at once."""

    alive = most = 0

    def __init__(self, frame: str) -> None:
        self.frame = frame
        Kept.alive += 1
        Kept.most = max(Kept.most, Kept.alive)

    def __del__(self) -> None:
        Kept.alive -= 1


def test_clips_of_one_pass_are_complete_and_hold_no_frame_longer_than_needed() -> None:
    clips = [[0, 2, 1, 0], [2, 3], [3, 4], [4, 4], [9]]
    read: list[int] = []

    def frames() -> Iterator[str]:
        for number in range(12):
            read.append(number)
            yield f"frame {number}"

    Kept.alive = Kept.most = 0
    found: list[list[str]] = []
    for clip in in_one_pass(frames(), clips, Kept):
        assert read[-1] == max(clips[len(found)])
        found.append([kept.frame for kept in clip])
        del clip
    assert found == [[f"frame {number}" for number in clip] for clip in clips]
    assert Kept.most == 3


def test_a_timing_says_what_it_is() -> None:
    assert (str(ClipTiming(fps=2.5)), str(ClipTiming(stride=3))) == ("2.5 a second", "stride 3")
