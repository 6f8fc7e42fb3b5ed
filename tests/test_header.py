import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from fima.cli import main
from fima.data.decode.header import read_header
from fima.data.decode.video import VideoReader
from fima.errors import VideoError
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


def write_x264(
    path: Path, options: dict[str, str], pixel_format: str = "yuv420p", shape: tuple[int, int] = (48, 64)
) -> Path:
    """Twenty frames of H.264, with a second of silence in front of them in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
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


def test_opening_without_decoding_gives_the_same_frames(tmp_path: Path) -> None:
    for path in files(tmp_path):
        frames = decode_all(path)
        rates = []
        for probe in (False, True):
            with VideoReader(path, probe=probe) as reader:
                np.testing.assert_array_equal(reader.read(range(reader.num_frames)), frames)
                rates.append(reader.fps)
        header = read_header(path)
        assert rates == [header.fps, header.fps]
        assert (header.num_frames, header.height, header.width) == frames.shape[:3]
        with av.open(str(path)) as plain:
            assert header.pixel_format == next(plain.decode(video=0)).format.name


def test_a_header_that_contradicts_its_stream_is_named(tmp_path: Path) -> None:
    path = write_x264(tmp_path / "v" / "a.mp4", {})
    frames = decode_all(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"avc1", content.index(b"stsd")) + 4 + 24
    assert content[place : place + 4] == struct.pack(">HH", 64, 48)
    content[place : place + 4] = struct.pack(">HH", 640, 480)
    path.write_bytes(bytes(content))
    with pytest.raises(VideoError, match="its header says 640x480, but its frames are 64x48: `fima prepare`"):
        read_header(path)
    with VideoReader(path) as reader, pytest.raises(VideoError, match="from 640x480 to 64x48, or is not what"):
        reader.read([0])
    with VideoReader(path, probe=True) as reader:
        np.testing.assert_array_equal(reader.read(range(reader.num_frames)), frames)
    assert main(["prepare", str(tmp_path / "v"), str(tmp_path / "p"), "--no-check-space"]) == 0
    assert read_header(tmp_path / "p" / "a.mp4").width == 64


def test_an_edit_list_that_leaves_nothing_is_no_frame(tmp_path: Path) -> None:
    path = write_edit_list(tmp_path / "v.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 16
    content[start : start + 4] = (2**30).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(VideoError, match="no frame"):
        read_header(path)
