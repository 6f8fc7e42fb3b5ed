"""Which stream of a file is its video, and names that FFmpeg would take for something else."""

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream

from fima.cli import main
from fima.data.decode.header import read_header
from fima.data.decode.video import VideoReader
from fima.errors import VideoError
from fima.visual.video_out import video_writer
from tests.video_files import Pixels, moving_square, write_audio_only, write_video

NONE = Disposition(0)
NAMES = ["12:30", "file:x", "-o", "100%d", "a b ", "ä‘\n", os.fsdecode(b"\xff\xfe"), "http:", "~"]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def boxes(content: bytes, start: int = 0) -> Iterator[bytes]:
    while start + 8 <= len(content):
        size = int.from_bytes(content[start : start + 4], "big")
        yield content[start : start + size]
        start += size


def jpeg(side: int = 256) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width = context.height = side
    context.pix_fmt, context.time_base = "yuvj420p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), 200, dtype=np.uint8), "rgb24")
    return b"".join(bytes(packet) for packet in context.encode(frame.reformat(format="yuvj420p")))


def with_cover_first(path: Path) -> Path:
    """A picture before the tracks, where taggers put it, in an MP4 whose last box is `moov`."""
    data = box(b"data", struct.pack(">II", 13, 0) + jpeg())
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    meta = box(b"meta", bytes(4) + handler + box(b"ilst", box(b"covr", data)))
    content = b""
    for whole in boxes(path.read_bytes()):
        if whole[4:8] == b"moov":
            tracks = b"".join(kid for kid in boxes(whole, 8) if kid[4:8] != b"udta")
            content += box(b"moov", box(b"udta", meta) + tracks)
        else:
            content += whole
    path.write_bytes(content)
    return path


def write_streams(path: Path, *streams: tuple[Pixels, Disposition]) -> Path:
    """Several video streams in one file."""
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    with av.open(str(path), "w") as container:
        made = []
        for frames, disposition in streams:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, VideoStream)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.disposition = disposition
            made.append(stream)
        for stream, (frames, _) in zip(made, streams, strict=True):
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_an_attached_picture_is_no_video(codec: str, tmp_path: Path) -> None:
    path = with_cover_first(write_video(tmp_path / "v.mp4", moving_square(20), codec=codec))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    with VideoReader(path) as reader:
        assert (reader.num_frames, reader.height, reader.width) == (20, 48, 64)
        assert reader.read([19]).std() > 10
    assert (read_header(path).num_frames, read_header(path).chosen) == (20, "")


def test_sound_with_a_picture_is_no_video(tmp_path: Path) -> None:
    path = with_cover_first(write_audio_only(tmp_path / "v.m4a"))
    with pytest.raises(VideoError, match="no video stream, but an attached picture"):
        VideoReader(path)


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.mkv", "v.avi", "v.ts", "v.nut"])
def test_the_larger_of_two_streams(name: str, tmp_path: Path) -> None:
    both = Disposition.default if name.endswith(("mp4", "mov")) else NONE  # of none, FFmpeg marks the first
    small, large = (moving_square(12, 32, 48), both), (moving_square(20, 96, 128), both)
    for place, streams in enumerate([(large, small), (small, large)], start=1):
        path = write_streams(tmp_path / name, *streams)
        header = read_header(path)
        assert (header.num_frames, header.width, header.chosen) == (20, 128, f"{place} of 2, 128x96")
        with VideoReader(path) as reader:
            np.testing.assert_array_equal(reader.read([0, 19]).shape, (2, 96, 128, 3))


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_the_default_stream_comes_before_a_larger_one(name: str, tmp_path: Path) -> None:
    small, large = (moving_square(12, 32, 48), Disposition.default), (moving_square(20, 96, 128), NONE)
    header = read_header(write_streams(tmp_path / name, large, small))
    assert (header.num_frames, header.width, header.chosen) == (12, 48, "2 of 2, 48x32")


def test_a_default_stream_of_one_picture_is_no_video(tmp_path: Path) -> None:
    still = (moving_square(1, 96, 128), Disposition.default)
    header = read_header(write_streams(tmp_path / "v.mp4", still, (moving_square(20), NONE)))
    assert (header.num_frames, header.chosen) == (20, "2 of 2, 64x48")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_mean_something_to_ffmpeg(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v" / name / f"{name}.mp4", moving_square(6))
    assert main(["prepare", "--workers", "1", "--", "v", f"{name}"]) == 0
    for path in (Path("v", name, f"{name}.mp4"), Path(name, name, f"{name}.mp4")):
        with VideoReader(path) as reader:
            assert reader.num_frames == 6
        assert read_header(path).num_frames == 6
    with video_writer(Path(name, f"{name}.mp4"), 25) as write:
        write(moving_square(1)[0])
    assert read_header(Path(name, f"{name}.mp4")).num_frames == 1
