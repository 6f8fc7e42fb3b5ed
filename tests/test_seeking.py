"""A frame that is reached by seeking is the one that decoding from the beginning gives, whatever a container says."""

import contextlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.stream import VideoStream

from fima.data.decode.header import read_header
from fima.data.decode.video import VideoReader
from fima.errors import VideoError
from tests.odd_videos import write_edit_list, write_late_start
from tests.video_files import decode_all, moving_square, write_h264_mp4, write_uneven_mkv, write_video

TS_PACKET_BYTES = 188


def remux(source: Path, target: Path, *, all_keys: bool = False, first: int = 0) -> Path:
    """Another container around the same packets, from packet `first` on; `all_keys` calls each of them a key frame."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.size and number >= first:
                packet.stream = stream
                packet.is_keyframe |= all_keys
                container.mux(packet)
    return target


def without_sync_table(path: Path) -> Path:
    """By the standard, an MP4 without `stss` has key frames only."""
    content = path.read_bytes()
    assert content.count(b"stss") == 1
    path.write_bytes(content.replace(b"stss", b"free"))
    return path


def h264(path: Path, b_frames: int = 0) -> Path:
    options = {"x264-params": f"keyint=12:bframes={b_frames}:scenecut=0:ref=3"}
    return write_video(path, moving_square(40), codec="libx264", options=options, b_frames=b_frames)


def hevc(path: Path) -> Path:
    options = {"x265-params": "log-level=none:keyint=12:bframes=3"}
    return write_video(path, moving_square(40), codec="libx265", options=options, b_frames=3)


def refreshed(path: Path) -> Path:
    """H.264 without further key frames: each picture refreshes a column, and containers call every twelfth a key."""
    options = {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
    return write_video(path, moving_square(40), codec="libx264", options=options)


def lossy_ts(path: Path, lost: int) -> Path:
    write_video(path, moving_square(60, 96, 128), codec="libx264", b_frames=2)
    return cut_ts(path, first=lost, last=lost)


def cut_ts(path: Path, first: int, last: int) -> Path:
    """A transport stream that has lost some of its packets; the first three are its tables."""
    content = path.read_bytes()
    path.write_bytes(content[: first * TS_PACKET_BYTES] + content[(last + 1) * TS_PACKET_BYTES :])
    return path


def overwritten(path: Path, mark: bytes, content: bytes, after: int = 0) -> Path:
    """The file with other bytes `after` bytes behind the last place of a mark."""
    whole = bytearray(path.read_bytes())
    place = whole.rindex(mark) + len(mark) + after
    whole[place : place + len(content)] = content
    path.write_bytes(bytes(whole))
    return path


def remuxed(
    writer: Callable[[Path], Path], source: str, *, all_keys: bool = False, first: int = 0
) -> Callable[[Path], Path]:
    return lambda path: remux(writer(path.with_name(source)), path, all_keys=all_keys, first=first)


def mpeg4(path: Path, b_frames: int = 0) -> Path:
    return write_video(path, moving_square(40), b_frames=b_frames)


def delayed(path: Path) -> Path:
    """H.264 in which nothing is worth a B-frame, although there may be some: all is shown two frames later."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 48, 64, 3), dtype=np.uint8)
    return write_video(path, noise, codec="libx264", gop_frames=8, b_frames=2)


def two_rates(path: Path) -> Path:
    """Ten frames a second, then a hundred."""
    times = [*range(0, 2000, 100), *range(2000, 2200, 10)]
    return write_video(path, moving_square(40), codec="libx264", b_frames=2, timestamps=times)


def expected_frames(path: Path) -> npt.NDArray[np.uint8]:
    """All frames as plain decoding gives them; what comes before the first key frame may be undecodable."""
    with av.open(str(path)) as container:
        stream, frames = container.streams.video[0], list[npt.NDArray[Any]]()
        for packet in container.demux(stream):
            try:
                frames += [frame.to_ndarray(format="rgb24") for frame in stream.codec_context.decode(packet)]
            except av.InvalidDataError:
                assert not frames
    return np.stack(frames)


KINDS: dict[str, Callable[[Path], Path]] = {
    "mpeg4_no_table.mp4": lambda path: without_sync_table(mpeg4(path)),
    "mpeg4_b_no_table.mp4": lambda path: without_sync_table(mpeg4(path, b_frames=2)),
    "h264_no_table.mp4": lambda path: without_sync_table(h264(path)),
    "h264_b_no_table.mov": lambda path: without_sync_table(h264(path, b_frames=3)),
    "open_gop_no_table.mp4": lambda path: without_sync_table(write_h264_mp4(path)),
    "hevc_no_table.mp4": lambda path: without_sync_table(hevc(path)),
    "mpeg4_all_keys.avi": remuxed(mpeg4, "x.mp4", all_keys=True),
    "mpeg4_all_keys.mkv": remuxed(mpeg4, "x.mp4", all_keys=True),
    "h264_all_keys.mkv": remuxed(h264, "x.mp4", all_keys=True),
    "h264_all_keys.flv": remuxed(h264, "x.mp4", all_keys=True),
    "begins_between_keys.mkv": remuxed(h264, "x.mp4", first=5, all_keys=True),
    "begins_between_keys.avi": remuxed(mpeg4, "x.mp4", first=5),
    "begins_with_b.ts": lambda path: cut_ts(write_h264_mp4(path), first=3, last=18),
    "refreshed.mp4": refreshed,
    "refreshed.mkv": remuxed(refreshed, "x.mp4", all_keys=True),
    "edit_list_no_table.mp4": lambda path: without_sync_table(write_edit_list(path)),
    "no_index.avi": lambda path: overwritten(mpeg4(path), b"idx1", b"JUNK", after=-4),
    "half_an_index.avi": lambda path: overwritten(mpeg4(path), b"idx1", (20 * 16).to_bytes(4, "little")),
    "wrong_places.avi": lambda path: overwritten(mpeg4(path), b"idx1", bytes(160), after=164),
    "wrong_cues.mkv": lambda path: overwritten(h264(path, b_frames=2), b"\x1c\x53\xbb\x6b", bytes(12), after=4),
    "late_start.mp4": write_late_start,
    "delayed.mp4": delayed,
    "two_rates.mp4": two_rates,
    "uneven.mp4": write_uneven_mkv,
    "lossy_early.ts": lambda path: lossy_ts(path, 30),
    "lossy_late.ts": lambda path: lossy_ts(path, 60),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_by_seeking_is_that_of_decoding_from_the_beginning(name: str, tmp_path: Path) -> None:
    path = KINDS[name](tmp_path / name)
    try:
        with VideoReader(path) as reader:
            num_frames = reader.num_frames
    except VideoError:
        assert name.startswith(("lossy", "half"))
        return
    expected = expected_frames(path)
    assert num_frames == len(expected)
    for first in range(num_frames):  # opened anew: no frame is kept from before
        with VideoReader(path) as reader:
            wanted = sorted({first, min(first + 17, num_frames - 1)})
            np.testing.assert_array_equal(reader.read(wanted), expected[wanted])


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("mpeg4_no_table.mp4", False),
        ("h264_no_table.mp4", False),
        ("refreshed.mp4", False),
        ("uneven.mp4", True),
        ("delayed.mp4", True),
    ],
)
def test_verify_tells_whether_key_frames_are_what_they_are_called(name: str, holds: bool, tmp_path: Path) -> None:
    with VideoReader(KINDS[name](tmp_path / name)) as reader:
        assert reader.verify() is holds


def test_verify_names_frames_that_differ_when_decoding_begins_at_their_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = (write_h264_mp4(tmp_path / f"{seed}.mp4", seed=seed) for seed in (0, 1))
    with VideoReader(path) as reader, VideoReader(other) as another:
        assert reader.verify()
        monkeypatch.setattr(reader._packets, "starting_at", another._packets.starting_at)
        with pytest.raises(VideoError, match=r"0\.mp4: .*frame 0 is another one when decoding begins"):
            reader.verify()


def test_frames_that_a_decoder_does_not_give_are_named(tmp_path: Path) -> None:
    """A packet in the middle has a filler instead of a picture, so that there are fewer frames than packets."""
    path = h264(tmp_path / "v.mp4")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][18]
        place, size = packet.pos, packet.size
    assert place is not None
    content = bytearray(path.read_bytes())
    content[place : place + size] = (size - 4).to_bytes(4, "big") + b"\x0c" + bytes([255]) * (size - 6) + b"\x80"
    path.write_bytes(bytes(content))
    with VideoReader(path) as reader, pytest.raises(VideoError, match="decoded"):
        reader.verify()


@pytest.mark.parametrize("name", ["a.mp4", "b.avi", "c.mkv", "d.ts", "e.dv", "f.264"])
def test_frame_rate_is_that_of_the_frames(name: str, tmp_path: Path) -> None:
    """Containers state rates that no frame has: DV of 25/s says 60,000."""
    if name == "e.dv":
        path = write_video(tmp_path / name, moving_square(20, 576, 720), codec="dvvideo")
    else:
        path = write_video(tmp_path / name, moving_square(30), codec="libx264", fps=25)
    with VideoReader(path) as reader:
        assert reader.fps == pytest.approx(25, rel=0.005)
        assert name != "e.dv" or reader.fps == 25, "to the last bit, or a second has a part too many"


@pytest.mark.parametrize(("name", "codec"), [("a.gif", "gif"), ("a.mjpeg", "mjpeg")])
def test_pictures_in_a_row_whose_last_one_is_cut_off(name: str, codec: str, tmp_path: Path) -> None:
    path, frames = tmp_path / name, moving_square(9, 64, 96)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb8" if codec == "gif" else "yuvj420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels).reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert reader.num_frames == 9
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 60, len(whole) // 2, len(whole) // 5):
        path.write_bytes(whole[:kept])
        with (
            pytest.raises(VideoError, match=r"truncated|damaged|incomplete|cannot be decoded"),
            VideoReader(path) as reader,
        ):
            reader.read([0])


def test_frame_rate_of_recordings_put_together(tmp_path: Path) -> None:
    """As the parts of a DVD or of a camera are: each begins at time 0."""
    part = write_video(tmp_path / "a.mpg", moving_square(40), codec="mpeg1video").read_bytes()
    (tmp_path / "b.mpg").write_bytes(3 * part)
    with VideoReader(tmp_path / "b.mpg") as reader:
        assert (reader.num_frames, reader.fps) == (120, 25)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_transport_streams_put_together(codec: str, tmp_path: Path) -> None:
    """They were refused as truncated: the counter of packets begins anew. A loss before the joint still is one."""
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    starts = (0,) * 3 if codec == "mpeg2video" else (9000, 5000, 730)
    paths = [
        write_video(
            tmp_path / f"{start}.{number}.ts",
            moving_square(30 + number, 96, 128, seed=number),
            codec=codec,
            options=options,
            b_frames=2,
            timestamps=None if codec == "mpeg2video" else [start + 40 * i for i in range(30 + number)],
        )
        for number, start in enumerate(starts)
    ]
    path, parts = tmp_path / "v.ts", [path.read_bytes() for path in paths]
    path.write_bytes(b"".join(parts))
    with VideoReader(path) as reader:
        assert (reader.num_frames, read_header(path).num_frames) == (93, 93)
        assert reader.fps == pytest.approx(25)
        np.testing.assert_array_equal(reader.read(range(93)), np.concatenate([decode_all(part) for part in paths]))
    cut = range(len(parts[0]) - 4 * TS_PACKET_BYTES, len(parts[0]), TS_PACKET_BYTES)
    right = {frame.tobytes() for part in paths for frame in decode_all(part)}
    for first, last in [(start, len(parts[0])) for start in cut] + [(start, start + TS_PACKET_BYTES) for start in cut]:
        path.write_bytes(parts[0][:first] + parts[0][last:] + parts[1])
        with contextlib.suppress(VideoError), VideoReader(path) as reader:
            assert {frame.tobytes() for frame in reader.read(range(reader.num_frames))} <= right


def test_a_transport_stream_put_behind_another_begins_with_a_key_frame_that_is_shown_first(tmp_path: Path) -> None:
    """The frames that are shown before it would be decoded from those of the other, and be wrong."""
    first, second = (
        write_video(tmp_path / f"{seed}.ts", moving_square(60, seed=seed), codec="mpeg2video", b_frames=2)
        for seed in (1, 2)
    )
    with av.open(str(second)) as container:
        places = [packet.pos or 0 for packet in container.demux(video=0) if packet.is_keyframe]
    cut_ts(second, first=3, last=places[2] // TS_PACKET_BYTES - 1)
    assert len(decode_all(second)) > 20
    (tmp_path / "v.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(VideoError, match="a packet is incomplete"):
        VideoReader(tmp_path / "v.ts")


def test_rates_and_times_of_uneven_frames(tmp_path: Path) -> None:
    with VideoReader(two_rates(tmp_path / "v.mkv")) as reader:
        assert reader.fps == pytest.approx(39 / 2.19, rel=0.1)
        assert isinstance(reader.time_base, Fraction)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_transport_stream_that_has_lost_a_packet_of_its_video_is_refused(codec: str, tmp_path: Path) -> None:
    """Of its first frame as well: there, FFmpeg's parser loses the mark that the demuxer sets."""
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_video(tmp_path / "v.ts", moving_square(30, 96, 128), codec=codec, options=options, b_frames=2)
    whole = path.read_bytes()
    starts = range(0, len(whole), TS_PACKET_BYTES)
    of_video = [start for start in starts if int.from_bytes(whole[start + 1 : start + 3], "big") & 0x1FFF == 256]
    assert len(of_video) > 30
    for start in [*of_video[1:12], *of_video[12:-1:5]]:
        path.write_bytes(whole[:start] + whole[start + TS_PACKET_BYTES :])
        with pytest.raises(VideoError, match="a packet is incomplete"), VideoReader(path) as reader:
            reader.read([reader.num_frames - 1])


CUT_OFF: dict[str, tuple[str, dict[str, str], tuple[int, int]]] = {
    "v.264": ("libx264", {"crf": "12"}, (96, 128)),
    "slices.264": ("libx264", {"x264-params": "slices=4:keyint=8"}, (96, 128)),
    "v.265": ("libx265", {"x265-params": "log-level=none:keyint=6"}, (96, 128)),
    "v.ts": ("libx265", {"x265-params": "log-level=none:crf=2"}, (96, 128)),
    "v.dv": ("dvvideo", {}, (576, 720)),
}


@pytest.mark.parametrize("name", CUT_OFF)
def test_the_end_of_a_stream_that_is_cut_off_is_not_made_up(name: str, tmp_path: Path) -> None:
    """What is read of it are pictures of the whole one; in most of these FFmpeg makes up the last, without a word."""
    codec, options, size = CUT_OFF[name]
    path = write_video(tmp_path / name, moving_square(9, *size), codec=codec, options=options)
    whole, content = decode_all(path), path.read_bytes()
    with VideoReader(path) as reader:
        assert reader.num_frames == len(whole) == 9
    refused = 0
    for num_lost in (1, 2, 3, 5, 8, 13, 21, 55, *range(TS_PACKET_BYTES, 9 * TS_PACKET_BYTES, TS_PACKET_BYTES)):
        path.write_bytes(content[:-num_lost])
        try:
            with VideoReader(path) as reader:
                frames = reader.read(range(reader.num_frames))
        except VideoError:
            refused += 1
            continue
        np.testing.assert_array_equal(frames, whole[: len(frames)])
    assert refused
