import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fima.data.decode import packets
from fima.data.decode.container import video_packets
from fima.data.decode.packets import FrameIndex, TimestampsDisagree
from fima.data.decode.video import VideoReader
from fima.errors import VideoError
from tests.odd_videos import write_edit_list, write_packed_avi
from tests.video_files import (
    damage,
    decode_all,
    moving_square,
    truncate,
    write_audio_only,
    write_h264_mp4,
    write_ucf101_avi,
    write_uneven_mkv,
    write_video,
)

REAL_CLIPS = sorted((Path(__file__).parents[2] / "shared" / "videos").glob("*.*"))


def write_in_order(path: Path) -> Path:
    """H.264 as `fima prepare` writes it: no B-frames, a key frame every 6 frames, the index in front."""
    plain = write_video(path.with_suffix(".mkv"), moving_square(60), codec="libx264", gop_frames=6)
    with av.open(str(plain)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    plain.unlink()
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "b_pyramid.mp4": write_h264_mp4,
    "in_order.mp4": write_in_order,
    "uneven.mkv": write_uneven_mkv,
    "uneven.mp4": write_uneven_mkv,
    "ucf101.avi": write_ucf101_avi,
    "short_gop.avi": lambda path: write_ucf101_avi(path, gop_frames=6),
    "b_frames.avi": lambda path: write_video(path, moving_square(40), b_frames=2),
    "packed_b_frames.avi": write_packed_avi,
    "b_frames.ts": lambda path: write_video(path, moving_square(40), codec="libx264", b_frames=2),
    "b_frames.mpg": lambda path: write_video(path, moving_square(30), codec="mpeg2video", b_frames=2),
    "old.flv": lambda path: write_video(path, moving_square(20), codec="flv"),
    "odd_size.mkv": lambda path: write_video(path, moving_square(20, 45, 63), codec="ffv1"),
    "vp8.webm": lambda path: write_video(
        path, moving_square(30), codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}
    ),
}


def assert_reads_like_sequential_decoding(path: Path) -> None:
    reference = decode_all(path)
    rng = np.random.default_rng(0)
    with VideoReader(path) as reader:
        assert reader.num_frames == len(reference)
        assert (reader.height, reader.width) == reference.shape[1:3]
        for length in (1, 5, 16) * 4:
            start = int(rng.integers(max(1, len(reference) - length + 1)))
            window = list(range(start, min(start + length, len(reference))))
            np.testing.assert_array_equal(reader.read(window), reference[window])
        scattered = rng.integers(len(reference), size=9).tolist()
        np.testing.assert_array_equal(reader.read(scattered), reference[scattered])
        np.testing.assert_array_equal(np.stack(list(reader.stream())), reference)


@pytest.mark.parametrize("name", WRITERS)
def test_any_window_equals_sequential_decoding(name: str, tmp_path: Path) -> None:
    assert_reads_like_sequential_decoding(WRITERS[name](tmp_path / name))


@pytest.mark.parametrize(
    ("name", "other"),
    [("ucf101.avi", "v.mp4"), ("in_order.mp4", "v.avi"), ("uneven.mkv", "v.avi"), ("b_frames.ts", "v.mov")],
)
def test_a_name_may_say_another_format(name: str, other: str, tmp_path: Path) -> None:
    assert_reads_like_sequential_decoding(WRITERS[name](tmp_path / name).rename(tmp_path / other))


def test_clips_that_lie_apart_are_not_joined_by_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ucf101_avi(tmp_path / "v.avi", num_frames=100, gop_frames=10)
    reference = decode_all(path)
    decoded = []
    with VideoReader(path) as reader:
        starting_at = reader._packets.starting_at

        def counted(start: int) -> Iterator["Packet[VideoStream]"]:
            for packet in starting_at(start):
                decoded.append(packet.pts)
                yield packet

        monkeypatch.setattr(reader._packets, "starting_at", counted)
        wanted = [2, 3, 4, 83, 84, 85]
        np.testing.assert_array_equal(reader.read(wanted), reference[wanted])
        assert len(decoded) < 20
        decoded.clear()
        np.testing.assert_array_equal(reader.read(range(5, 25)), reference[5:25])
        assert len(decoded) < 30


def test_of_frames_in_order_only_the_needed_packets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_in_order(tmp_path / "v.mp4")
    reference = decode_all(path)
    read = []

    def noted(path: Path, container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
        for packet in video_packets(path, container, stream):
            read.append(packet.pts)
            yield packet

    monkeypatch.setattr(packets, "video_packets", noted)
    with VideoReader(path) as reader:
        assert reader.num_frames == 60
        assert not read
        for wanted in ([50, 51, 52], [3, 4], [58, 59], [1, 31], range(60)):
            np.testing.assert_array_equal(reader.read(wanted), reference[wanted])
            assert len(read) <= 6 * len(wanted)
            read.clear()


@pytest.mark.parametrize("name", ["in_order.mp4", "b_pyramid.mp4", "uneven.mp4"])
@pytest.mark.parametrize("wrong_packet", [0, 15, 39])
def test_a_header_with_wrong_times_is_not_believed(
    name: str, wrong_packet: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = WRITERS[name](tmp_path / name)
    reference = decode_all(path)
    monkeypatch.setattr(packets, "_is_in_order", lambda container, stream: True)
    with VideoReader(path) as reader:
        listed = reader._packets._listed
        assert listed is not None
        if name == "in_order.mp4":
            listed[wrong_packet] += 1
        for wanted in ([30, 39], [0, 1], [13, 14, 15, 16]):
            np.testing.assert_array_equal(reader.read(wanted), reference[wanted])
    with VideoReader(path) as reader:
        frames = [frame.to_ndarray(format="rgb24") for frame in reader.frames()]
        np.testing.assert_array_equal(frames, reference)


def test_frames_that_an_edit_list_leaves_out_are_not_taken_from_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_edit_list(tmp_path / "v.mp4")
    monkeypatch.setattr(packets, "_is_in_order", lambda container, stream: True)
    with VideoReader(path) as reader:
        assert reader._packets._listed is None
        assert reader.num_frames < 24
        np.testing.assert_array_equal(reader.read(range(reader.num_frames)), decode_all(path))


def test_an_index_that_goes_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    path = truncate(write_in_order(tmp_path / "v.mp4"), 0.8)
    with pytest.raises(VideoError, match=r"truncated: .* but its index goes to byte"):
        VideoReader(path)


def test_packed_b_frames_are_not_counted_by_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoReader, "_count_frames", None)
    with VideoReader(write_packed_avi(tmp_path / "v.avi")) as reader:
        assert reader.read(range(25)).shape == (25, 48, 64, 3)
        reader.verify()


def test_verify_finds_damage(tmp_path: Path) -> None:
    path = write_ucf101_avi(tmp_path / "v.avi", num_frames=40, side=128)
    with VideoReader(path) as reader:
        reader.verify()
    damage(path, 0.6, 0.7)
    with pytest.raises(VideoError), VideoReader(path) as reader:
        reader.verify()


@pytest.mark.parametrize("path", REAL_CLIPS, ids=lambda path: str(path.name))
def test_real_clips(path: Path) -> None:
    assert_reads_like_sequential_decoding(path)


def test_frames_that_all_differ_come_in_order(tmp_path: Path) -> None:
    frames = moving_square(24, 80, 80)
    path = write_video(tmp_path / "v.mp4", frames, codec="libx264", options={"crf": "1"}, b_frames=3)
    with VideoReader(path) as reader:
        read = reader.read(range(24)).astype(float)
        assert reader.fps == 25
    nearest = [int(np.abs(frames.astype(float) - frame).mean(axis=(1, 2, 3)).argmin()) for frame in read]
    assert nearest == list(range(24))


@pytest.mark.parametrize("limit", ["packets.KEPT_BYTES", "video.KEPT_FRAME_BYTES"])
@pytest.mark.parametrize("name", ["b_pyramid.mp4", "b_frames.mpg", "packed_b_frames.avi"])
def test_videos_too_large_to_keep(name: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"fima.data.decode.{limit}", 1000)
    assert_reads_like_sequential_decoding(WRITERS[name](tmp_path / name))


def lose_timestamps(reader: VideoReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(index: FrameIndex, wanted: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        raise TimestampsDisagree

    monkeypatch.setattr(reader, "_decode_from_key_frame", disagree)


def test_frames_are_counted_where_timestamps_disagree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_h264_mp4(tmp_path / "v.mp4")
    with VideoReader(path) as reader:
        lose_timestamps(reader, monkeypatch)
        np.testing.assert_array_equal(reader.read([20, 3, 20]), decode_all(path)[[20, 3, 20]])
    with VideoReader(path) as reader:
        lose_timestamps(reader, monkeypatch)
        reader.num_frames += 1
        with pytest.raises(VideoError, match="41 frames announced, 40 decoded"):
            reader.read([3])


def test_one_frame(tmp_path: Path) -> None:
    with VideoReader(write_h264_mp4(tmp_path / "v.mp4", num_frames=1)) as reader:
        assert reader.num_frames == 1
        assert reader.read([0, 0, 0]).shape == (3, 48, 64, 3)
        assert reader.read([]).shape == (0, 48, 64, 3)


@pytest.mark.parametrize("index", [-1, 24])
def test_frames_out_of_range(index: int, tmp_path: Path) -> None:
    with VideoReader(write_ucf101_avi(tmp_path / "v.avi")) as reader, pytest.raises(IndexError, match="of 24"):
        reader.read([0, index])


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    write_audio_only(tmp_path / "sound.m4a")
    for name, reason in {
        "empty.mp4": "empty",
        "text.mp4": "cannot be opened",
        "missing.mp4": "No such file",
        "sound.m4a": "no video stream",
    }.items():
        with pytest.raises(VideoError, match=reason) as caught:
            VideoReader(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("writer", [write_h264_mp4, write_ucf101_avi])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files(writer: Callable[[Path], Path], share: float, tmp_path: Path) -> None:
    path = truncate(writer(tmp_path / ("v.mp4" if writer is write_h264_mp4 else "v.avi")), share)
    with pytest.raises(VideoError):
        VideoReader(path)


@pytest.mark.parametrize("writer", [write_h264_mp4, write_ucf101_avi])
@pytest.mark.parametrize("where", [0.2, 0.4, 0.6, 0.8, 0.9])
def test_damage_is_reported_or_harmless(writer: Callable[[Path], Path], where: float, tmp_path: Path) -> None:
    path = writer(tmp_path / ("v.mp4" if writer is write_h264_mp4 else "v.avi"))
    reference = decode_all(path)
    damage(path, where, where + 0.05)
    try:
        with VideoReader(path) as reader:
            read = reader.read(range(reader.num_frames))
    except VideoError:
        return
    np.testing.assert_array_equal(read, reference)


def test_damage_in_the_middle_is_reported_by_the_frames_that_depend_on_it(tmp_path: Path) -> None:
    path = write_h264_mp4(tmp_path / "v.mp4", num_frames=40, gop_frames=10)
    reference = decode_all(path)
    with VideoReader(path) as reader:
        packet = next(reader._packets.starting_at(2))
        position, size = packet.pos, packet.size
    assert position is not None
    content = bytearray(path.read_bytes())
    content[position + 4 : position + size] = bytes(size - 4)
    path.write_bytes(bytes(content))
    with VideoReader(path) as reader:
        np.testing.assert_array_equal(reader.read([30, 39]), reference[[30, 39]])
        for index in (3, 6):
            with pytest.raises(VideoError):
                reader.read([index])


def test_change_of_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.h264", moving_square(10), codec="libx264")
    other = write_video(tmp_path / "w.h264", moving_square(10, 96, 128), codec="libx264")
    path.write_bytes(path.read_bytes() + other.read_bytes())
    with pytest.raises(VideoError, match="size changes"), VideoReader(path) as reader:
        reader.read(range(reader.num_frames))


def test_nothing_is_written_to_the_terminal(tmp_path: Path) -> None:
    damage(write_h264_mp4(tmp_path / "a.mp4"), 0.3, 0.4)
    damage(write_ucf101_avi(tmp_path / "b.avi"), 0.6, 0.9)
    truncate(write_uneven_mkv(tmp_path / "c.mkv"), 0.5)
    code = """
import sys
from pathlib import Path
from fima.data.decode.video import VideoReader
from fima.errors import VideoError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        with VideoReader(path) as reader:
            reader.read(range(reader.num_frames))
    except VideoError:
        pass
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_opening_is_quiet_where_another_library_lets_ffmpeg_speak(tmp_path: Path) -> None:
    path = write_h264_mp4(tmp_path / "a.mp4")
    program = (
        "import av.logging; av.logging.set_level(av.logging.ERROR)\n"
        "from fima.data.decode.video import VideoReader; from pathlib import Path; import sys\n"
        "with VideoReader(Path(sys.argv[1])) as reader: print(reader.read([3]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(1, ")
    assert done.stderr == ""
