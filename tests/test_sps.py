import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from fima.data.decode import container
from fima.data.decode.container import open_video
from fima.data.decode.header import read_header
from fima.data.decode.sps import FrameFormat, frame_format
from fima.data.decode.video import VideoReader
from tests.odd_videos import write_edit_list, write_interlaced, write_rotated
from tests.video_files import decode_all, moving_square, write_h264_mp4, write_uneven_mkv, write_video

SQUARES = moving_square(20)
X264 = {
    "baseline": {"profile": "baseline"},
    "main": {"profile": "main", "preset": "veryfast"},
    "slow": {"preset": "veryslow"},
    "all_key": {"g": "1"},
    "lossless": {"qp": "0"},
    "matrices": {"x264-params": "cqm=jvt"},
    "aspect": {"x264-params": "sar=40/33:overscan=crop:colorprim=bt709"},
    "full_range": {"x264-params": "range=pc"},
    "limited_range": {"x264-params": "range=tv:videoformat=pal"},
    "interlaced": {"x264-params": "tff=1"},
    "pyramid": {"x264-params": "open-gop=1:bframes=5:b-pyramid=normal:keyint=9"},
    "fragmented": {},
    "in_order": {"x264-params": "bframes=0:keyint=6"},
    "in_order_full_range": {"x264-params": "bframes=0:keyint=6:range=pc:colorprim=bt709:chromaloc=1"},
    "buffer_model": {"x264-params": "bframes=0:keyint=6:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500"},
}
PIXEL_FORMATS = ("yuvj420p", "yuv420p10le", "yuv422p", "yuv444p", "gray")
ALWAYS_FAST = {
    "baseline.mp4",
    "main.mp4",
    "slow.mp4",
    "pyramid.mp4",
    "full_range.mp4",
    "limited_range.mp4",
    "aspect.mp4",
    "in_order.mp4",
    "in_order_full_range.mp4",
}
USUAL = FrameFormat(width=64, height=48, full_range=False, in_order=False)


def write_x264(
    path: Path, options: dict[str, str], pixel_format: str = "yuv420p", shape: tuple[int, int] = (48, 64)
) -> Path:
    """Twenty frames of H.264, with a second of silence in front of them in the file."""
    flags = {"movflags": "frag_keyframe+empty_moov"} if path.stem == "fragmented" else {}
    with av.open(str(path), "w", options=flags) as target:
        sound = target.add_stream("aac", rate=8000)
        stream = target.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width = shape
        stream.pix_fmt = pixel_format
        if pixel_format.startswith("yuvj"):
            stream.codec_context.color_range = ColorRange.JPEG
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 8000, 0
        target.mux([*sound.encode(silence), *sound.encode(None)])
        for index, pixels in enumerate(moving_square(20, *shape)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def files(folder: Path) -> list[Path]:
    made = [write_x264(folder / f"{name}.mp4", options) for name, options in X264.items()]
    made += [write_x264(folder / f"{pixels}.mp4", {}, pixels) for pixels in PIXEL_FORMATS]
    made += [write_x264(folder / f"{h}x{w}.mov", {}, "yuv420p", (h, w)) for h, w in ((16, 16), (46, 62), (18, 1026))]
    made += [write_video(folder / f"{codec}.mp4", SQUARES, codec=codec) for codec in ("mpeg4", "libx265", "libvpx-vp9")]
    made += [
        write_h264_mp4(folder / "b.mp4"),
        write_edit_list(folder / "edit.mp4"),
        write_rotated(folder / "turned.mp4"),
    ]
    made += [write_interlaced(folder / "fields.mp4"), write_uneven_mkv(folder / "uneven.mp4")]
    made.append(write_uneven_mkv(folder / "matroska.mkv").rename(folder / "matroska.mp4"))
    return made


def test_opening_without_decoding_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = files(tmp_path)
    whole: set[str] = set()
    is_complete = container._is_complete

    def noted(opened: av.container.InputContainer) -> bool:
        complete = is_complete(opened)
        if complete:
            whole.add(Path(opened.name).name)
        return complete

    monkeypatch.setattr(container, "_is_complete", noted)
    fast = [read_header(path) for path in made]
    assert ALWAYS_FAST <= whole < {path.name for path in made}
    for path in made:
        with VideoReader(path) as reader:
            np.testing.assert_array_equal(reader.read(range(reader.num_frames)), decode_all(path))
    monkeypatch.setattr(container, "FORMATS", dict[str, str]())
    for path, header in zip(made, fast, strict=True):
        assert read_header(path) == header


def extradata(path: Path) -> bytes:
    opened, stream = open_video(path)
    with opened:
        assert isinstance(stream, VideoStream)
        return stream.codec_context.extradata or b""


def test_header_of_x264(tmp_path: Path) -> None:
    assert frame_format(extradata(write_x264(tmp_path / "a.mp4", {}))) == USUAL
    full = frame_format(extradata(write_x264(tmp_path / "b.mp4", {}, "yuvj420p")))
    assert full == FrameFormat(width=64, height=48, full_range=True, in_order=False)
    cropped = frame_format(extradata(write_x264(tmp_path / "c.mp4", {}, shape=(46, 62))))
    assert cropped == FrameFormat(width=62, height=46, full_range=False, in_order=False)
    for pixel_format in PIXEL_FORMATS[1:]:
        assert frame_format(extradata(write_x264(tmp_path / "d.mp4", {}, pixel_format))) is None


def avcc(unit: bytes) -> bytes:
    return struct.pack(">BBBBBBH", 1, 66, 0, 30, 0xFF, 0xE1, len(unit)) + unit


def test_order_of_frames(tmp_path: Path) -> None:
    for name, in_order in {
        "in_order": True,
        "in_order_full_range": True,
        "buffer_model": False,
        "pyramid": False,
    }.items():
        found = frame_format(extradata(write_x264(tmp_path / f"{name}.mp4", X264[name])))
        assert found is not None
        assert found.in_order == in_order


def test_picture_order_of_the_other_kind() -> None:
    # Number 0, frame numbers of 4 bits, kind 1: a flag, -1, 1, two offsets; one reference; then 4 x 3 blocks, frames,
    # no cropping, no usability information.
    bits = "1 1 010 0 011 010 011 010 011 010 0 00100 011 1 0 0 0 1".replace(" ", "")
    content = int(bits.ljust(40, "0"), 2).to_bytes(5, "big")
    assert frame_format(avcc(b"\x67\x42\x00\x1e" + content)) == USUAL


def test_damaged_headers_are_refused(tmp_path: Path) -> None:
    good = extradata(write_x264(tmp_path / "a.mp4", {}))
    assert frame_format(b"") is None
    assert frame_format(b"\0\0\0\1" + good) is None
    assert frame_format(good[:10]) is None
    size = int.from_bytes(good[6:8], "big")
    for kept in range(1, 9):
        assert frame_format(good[:6] + kept.to_bytes(2, "big") + good[8 : 8 + kept]) is None
    generator = np.random.default_rng(0)
    for _ in range(300):
        noise = bytearray(good)
        noise[9 : 8 + size] = generator.bytes(size - 1)
        found = frame_format(bytes(noise))
        assert found is None or found.width % 2 == found.height % 2 == 0


def test_a_header_that_contradicts_its_stream_is_not_trusted(tmp_path: Path) -> None:
    path = write_x264(tmp_path / "a.mp4", {})
    content = bytearray(path.read_bytes())
    place = content.index(b"avc1", content.index(b"stsd")) + 4 + 24
    assert content[place : place + 4] == struct.pack(">HH", 64, 48)
    content[place : place + 4] = struct.pack(">HH", 640, 480)
    path.write_bytes(bytes(content))
    header = read_header(path)
    assert (header.width, header.height) == (64, 48)
