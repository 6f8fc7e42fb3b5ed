"""Videos that are valid but unusual, and files that only look like videos, made on the spot."""

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from fima.data.decode.bitstream import VOP_START_CODE
from tests.video_files import (
    moving_square,
    truncate,
    write_audio_only,
    write_h264_mp4,
    write_ucf101_avi,
    write_uneven_mkv,
    write_video,
)

PACKED_MARK = b"\x00\x00\x01\xb2DivX503b1393p"
PLACEHOLDER_VOP = VOP_START_CODE + b"\x50\x00"


def write_pixel_format(path: Path, pixel_format: str, codec: str = "ffv1") -> Path:
    """Twelve frames in another pixel format."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for index, pixels in enumerate(moving_square(12)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_hdr(path: Path, curve: int = 18) -> Path:
    """Twelve frames that are called HDR: by HLG, or another curve of ITU-T H.273."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.color_trc = curve
        for pixels in moving_square(12):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.color_trc = curve
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_rotated(path: Path, degrees: int = 90) -> Path:
    """A landscape video that players show turned."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees)
        for pixels in moving_square(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """A video that players show by a display matrix: the place (x, y) at (a·x + c·y, b·x + d·y)."""
    write_video(path, moving_square(12), codec="libx264")
    content = path.read_bytes()
    plain, matrix = (
        struct.pack(">9i", *(n << 16 for n in numbers), 0, 0, 1 << 30)
        for numbers in ((1, 0, 0, 0, 1, 0), (a, b, 0, c, d, 0))
    )
    header = content.index(b"tkhd")
    place = content.index(plain, header)
    path.write_bytes(content[:place] + matrix + content[place + len(plain) :])
    return path


def write_anamorphic(path: Path, aspect: Fraction, degrees: int = 0) -> Path:
    """A 72x58 video of six frames, each white left of the middle, whose pixels are wider or higher than square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 72, 58, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if degrees:
            stream.set_display_rotation(degrees)
        pixels = np.zeros((58, 72, 3), dtype=np.uint8)
        pixels[:, :36] = 255
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_packed_avi(path: Path, num_groups: int = 8) -> Path:
    """MPEG-4 in AVI whose B-pictures are packed behind the reference that they need, as in stock UCF101."""
    plain = write_video(path.with_suffix(".m4v"), moving_square(1 + 3 * num_groups), b_frames=2, gop_frames=250)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.time_base = Fraction(1, 25)
        vops = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        first, rest = vops[0], vops[1:]
        position = first.find(VOP_START_CODE)
        packed = [first[:position] + PACKED_MARK + first[position:]]
        for group in range(0, len(rest) - 2, 3):
            reference, early, late = rest[group : group + 3]
            packed += [reference + early, late, PLACEHOLDER_VOP]
        for number, content in enumerate(packed):
            packet = Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number == 0
            target.mux(packet)
    plain.unlink()
    return path


def write_edit_list(path: Path) -> Path:
    """An MP4 whose edit list leaves out the first frames of what is stored."""
    write_h264_mp4(path, num_frames=24)
    content = bytearray(path.read_bytes())
    entry = content.index(b"elst") + 12
    media_time = int.from_bytes(content[entry + 4 : entry + 8], "big", signed=True)
    with av.open(str(path)) as container:
        time_base = container.streams.video[0].time_base
    assert time_base is not None
    shifted = media_time + round(6 / 25 / time_base)
    content[entry + 4 : entry + 8] = shifted.to_bytes(4, "big")
    path.write_bytes(bytes(content))
    return path


def write_late_start(path: Path) -> Path:
    """The first frame is shown after five seconds."""
    return write_video(path, moving_square(20), codec="libx264", timestamps=[5000 + 40 * i for i in range(20)])


def write_interlaced(path: Path) -> Path:
    """Two fields a frame."""
    options = {"x264-params": "tff=1", "flags": "+ildct+ilme"}
    return write_video(path, moving_square(20), codec="libx264", options=options)


def write_dropped_frames(path: Path) -> Path:
    """An AVI in which most places of frames are empty."""
    return write_video(path, moving_square(8), timestamps=[400 * number for number in range(8)])


def write_text(path: Path) -> Path:
    """A text file with the name of a video."""
    path.write_text("no video at all\n" * 100)
    return path


def write_pipe(path: Path) -> Path:
    """A pipe that nobody writes to."""
    os.mkfifo(path)
    return path


def write_empty(path: Path) -> Path:
    """A file of no bytes."""
    path.touch()
    return path


USABLE: dict[str, Callable[[Path], Path]] = {
    "rotated.mp4": write_rotated,
    "mirrored.mp4": lambda path: write_matrix(path, 1, 0, 0, -1),
    "odd_size.mkv": lambda path: write_video(path, moving_square(12, 45, 63), codec="ffv1"),
    "ten_bits.mkv": lambda path: write_pixel_format(path, "yuv420p10le"),
    "hdr.mp4": write_hdr,
    "gray.avi": lambda path: write_pixel_format(path, "gray"),
    "interlaced.mp4": write_interlaced,
    "uneven.mkv": write_uneven_mkv,
    "no_timestamps.h264": lambda path: write_video(path, moving_square(20), codec="libx264", b_frames=2),
    "packed.avi": write_packed_avi,
    "cut.mkv": lambda path: truncate(write_uneven_mkv(path), 0.6),
    "late_start.mkv": write_late_start,
    "late.ts": write_late_start,
    "edit_list.mp4": write_edit_list,
    "dropped.avi": write_dropped_frames,
    "one_frame.mp4": lambda path: write_h264_mp4(path, num_frames=1),
    "wide.mp4": lambda path: write_video(path, np.repeat(moving_square(1, 10, 10000), 3, axis=0), codec="libx264"),
    "Straße 走る\nnew line ‘quoted’ #1 {b}.avi": write_ucf101_avi,
}
UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "sound.m4v": (write_audio_only, "no video stream"),
    "empty.mp4": (write_empty, "empty file"),
    "text.mp4": (write_text, "cannot be opened"),
    "pipe.mp4": (write_pipe, "not a file"),
    "tail.avi": (lambda path: truncate(write_ucf101_avi(path), 0.9), "truncated"),
    "tail.mp4": (lambda path: truncate(write_h264_mp4(path), 0.9), "cannot be opened"),
}
