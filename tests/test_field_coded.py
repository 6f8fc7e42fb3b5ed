"""H.264 of camcorders and television: each picture is two fields, which may lie in packets of their own.

x264 writes no such pictures, so these are put together here of macroblocks that hold their pixels as they are (I_PCM).
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.packet import Packet
from av.video.stream import VideoStream

from fima.data.decode.header import read_header
from fima.data.decode.video import VideoReader
from fima.library.transcode import TranscodeSettings, transcode
from tests.video_files import decode_all, moving_square, write_video

SIDE, NUM_FRAMES, GOP_FRAMES = 64, 20, 6
SEQUENCE, PICTURE, KEY_SLICE, SLICE = 7, 8, 5, 1
I_SLICE, I_PCM = 7, 25
TICKS = Fraction(1, 90000)


class Bits:
    """Bits of H.264, in the order in which they are written."""

    def __init__(self) -> None:
        self.text = ""

    def fixed(self, *numbers: tuple[int, int]) -> "Bits":
        """Each number in so many bits."""
        self.text += "".join(f"{number:0{length}b}" for number, length in numbers)
        return self

    def exp_golomb(self, *numbers: int) -> "Bits":
        """Each number in as many bits as it needs."""
        for number in numbers:
            self.text += f"{number + 1:b}".rjust(2 * (number + 1).bit_length() - 1, "0")
        return self

    def whole_bytes(self) -> bytes:
        """All of them, and zeros up to the end of the last byte."""
        padded = self.text + "0" * (-len(self.text) % 8)
        return bytes(int(padded[place : place + 8], 2) for place in range(0, len(padded), 8))


def unit(kind: int, content: bytes) -> bytes:
    """A unit in Annex B, with the bytes that keep its content from looking like a start code."""
    escaped, zeros = bytearray(), 0
    for byte in content:
        if zeros == 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = 0 if byte else zeros + 1
    return b"\0\0\0\1" + bytes([3 << 5 | kind]) + bytes(escaped)


def parameter_sets() -> bytes:
    """Main profile, 25 frames a second, pictures of fields or frames."""
    sequence = Bits().fixed((77, 8), (0, 8), (30, 8)).exp_golomb(0, 0, 0, 4, 2).fixed((0, 1))
    sequence.exp_golomb(SIDE // 16 - 1, SIDE // 32 - 1).fixed((0b001, 3), (0, 1), (1, 1), (0, 4))
    sequence.fixed((1, 1), (1, 32), (50, 32), (1, 1), (0, 3), (1, 1), (1, 1)).exp_golomb(0, 0, 10, 10, 0, 2)
    picture = Bits().exp_golomb(0, 0).fixed((0, 2)).exp_golomb(0, 0, 0).fixed((0, 3)).exp_golomb(0, 0, 0).fixed((0, 3))
    return unit(SEQUENCE, sequence.fixed((1, 1)).whole_bytes()) + unit(PICTURE, picture.fixed((1, 1)).whole_bytes())


def field(lines: npt.NDArray[np.uint8], number: int, *, is_bottom: bool) -> bytes:
    """One field of frame `number`, given its lines of luma; its colour is grey."""
    place = number % GOP_FRAMES
    is_key = place == 0 and not is_bottom
    bits = Bits().exp_golomb(0, I_SLICE, 0).fixed((place, 4), (1, 1), (int(is_bottom), 1))
    if is_key:
        bits.exp_golomb(number // GOP_FRAMES % 2)
    bits.fixed((2 * place + is_bottom, 8), (0, 2 if is_key else 1)).exp_golomb(0)
    content = b""
    for top in range(0, SIDE // 2, 16):
        for left in range(0, SIDE, 16):
            content += bits.exp_golomb(I_PCM).whole_bytes()
            content += lines[top : top + 16, left : left + 16].tobytes() + bytes([128] * 128)
            bits = Bits()
    coded = unit(KEY_SLICE if is_key else SLICE, content + bits.fixed((1, 1)).whole_bytes())
    return parameter_sets() + coded if is_key else coded


def write_field_coded(path: Path, *, packet_per_field: bool) -> Path:
    """Twenty frames of 64x64, in a packet each or in two."""
    rng = np.random.default_rng(0)
    frames = rng.integers(40, 200, (NUM_FRAMES, 1, 1), dtype=np.uint8) + np.arange(SIDE, dtype=np.uint8)[:, None] % 32
    frames = np.broadcast_to(frames, (NUM_FRAMES, SIDE, SIDE))
    units = [field(frames[i][bottom::2], i, is_bottom=bool(bottom)) for i in range(NUM_FRAMES) for bottom in (0, 1)]
    if not packet_per_field:
        units = [first + second for first, second in zip(units[::2], units[1::2], strict=True)]
    raw = path.with_suffix(".h264")
    raw.write_bytes(b"".join(units))
    with av.open(str(raw)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        assert isinstance(stream, VideoStream)
        stream.time_base = TICKS
        for number, content in enumerate(units):
            packet = Packet(content)
            packet.stream, packet.time_base = stream, TICKS
            packet.pts = packet.dts = 9000 + number * (1800 if packet_per_field else 3600)
            packet.is_keyframe = content.startswith(parameter_sets())
            target.mux(packet)
    return path


@pytest.mark.parametrize("packet_per_field", [True, False], ids=["fields", "pairs"])
@pytest.mark.parametrize("name", ["v.ts", "v.m2ts", "v.mkv", "v.mp4"])
def test_two_fields_are_one_frame(name: str, packet_per_field: bool, tmp_path: Path) -> None:
    path = write_field_coded(tmp_path / name, packet_per_field=packet_per_field)
    frames = decode_all(path)
    assert len(frames) == NUM_FRAMES
    header = read_header(path)
    assert (header.num_frames, header.interlaced) == (NUM_FRAMES, True)
    assert header.fps == pytest.approx(25)
    with VideoReader(path) as reader:
        assert reader.num_frames == NUM_FRAMES
        assert reader.fps == pytest.approx(25)
        np.testing.assert_array_equal(reader.read([3, 4, 17]), frames[[3, 4, 17]])
        times = reader.frame_times()
        assert times is not None
        np.testing.assert_allclose(np.diff(times), 0.04, atol=0.001)


def test_they_are_rewritten_as_frames(tmp_path: Path) -> None:
    path = write_field_coded(tmp_path / "v.ts", packet_per_field=True)
    assert transcode(path, tmp_path / "w.mp4", TranscodeSettings()) == NUM_FRAMES
    header = read_header(tmp_path / "w.mp4")
    assert (header.num_frames, header.fps, header.interlaced) == (NUM_FRAMES, 25, False)


def test_interlacing_that_begins_after_the_first_frame(tmp_path: Path) -> None:
    """It went by the first frame, and the others kept their two fields."""
    combed = moving_square(12, 96, 128)
    combed[:, ::2] = 255 - combed[:, ::2]
    options = {"crf": "1", "x264-params": "tff=1"}
    parts = [
        write_video(tmp_path / "a.ts", moving_square(9, 96, 128), codec="libx264"),
        write_video(tmp_path / "b.ts", combed, codec="libx264", options=options),
    ]
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert transcode(tmp_path / "v.ts", tmp_path / "v.mp4", TranscodeSettings(crf=1)) == 21
    with VideoReader(tmp_path / "v.mp4") as reader:
        rows = reader.read([16])[0].astype(float).mean((1, 2))
    assert abs(np.diff(rows)).mean() < 20  # was 75
