"""The sequence parameter set of H.264: what the global header of a stream tells of its frames without decoding one."""

from dataclasses import dataclass
from functools import lru_cache

AVCC_VERSION = 1
AVCC_FIRST_SET = 6
SPS_UNIT_TYPE = 7
MACROBLOCK_PX = 16
EXTENDED_ASPECT = 255
PROFILES_OF_420 = frozenset({66, 77, 88})
"""Baseline, Main and Extended: 8 bits, 4:2:0, without saying so."""
PROFILES_WITH_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 244})


@dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """The frames of a stream of the common kind: 8 bits, 4:2:0, not interlaced."""

    width: int
    """Pixels, after cropping."""
    height: int
    """Pixels, after cropping."""
    full_range: bool
    """Whether brightness goes from 0 to 255, which FFmpeg calls yuvj420p, and not from 16 to 235."""
    in_order: bool
    """Whether the header promises that frames are stored in the order in which they are shown."""


@lru_cache(maxsize=256)
def frame_format(extradata: bytes) -> FrameFormat | None:
    """The format of the frames of an H.264 stream, from its global header (ISO 14496-15, 5.3.3.1: avcC).

    Returns:
        The format; None where the header has another form, is damaged, or tells of frames of an uncommon kind.
    """
    if len(extradata) < AVCC_FIRST_SET + 2 or extradata[0] != AVCC_VERSION or extradata[5] & 31 != 1:
        return None
    size = int.from_bytes(extradata[AVCC_FIRST_SET : AVCC_FIRST_SET + 2], "big")
    unit = extradata[AVCC_FIRST_SET + 2 :][:size]
    if len(unit) < size or size < 1 or unit[0] & 31 != SPS_UNIT_TYPE:
        return None
    try:
        return _parse(_Bits(unit[1:].replace(b"\0\0\3", b"\0\0")))
    except EOFError:
        return None


class _Bits:
    """Reads bits from the first to the last. Raises EOFError where there are no more."""

    def __init__(self, content: bytes) -> None:
        self._value = int.from_bytes(content, "big")
        self._left = 8 * len(content)

    def number(self, bits: int) -> int:
        """The next bits as a number: u(n)."""
        self._left -= bits
        if self._left < 0:
            raise EOFError
        return self._value >> self._left & (1 << bits) - 1

    def golomb(self) -> int:
        """The next Exp-Golomb code (ISO 14496-10, 9.1): ue(v)."""
        zeros = 0
        while not self.number(1):
            zeros += 1
        return (1 << zeros) - 1 + self.number(zeros)


def _parse(bits: _Bits) -> FrameFormat | None:
    """Read a sequence parameter set (ISO 14496-10, 7.3.2.1.1) up to the range of its colours."""
    profile, _, _ = (bits.number(8) for _ in range(3))
    bits.golomb()  # its own number
    if profile not in PROFILES_OF_420:
        if profile not in PROFILES_WITH_CHROMA or (bits.golomb(), bits.golomb(), bits.golomb()) != (1, 0, 0):
            return None
        _, scaling_matrix = bits.number(1), bits.number(1)
        if scaling_matrix:
            return None
    bits.golomb()  # length of frame numbers
    _skip_picture_order(bits)
    bits.golomb()  # reference frames
    bits.number(1)
    columns, rows = bits.golomb() + 1, bits.golomb() + 1
    if not bits.number(1):  # fields, not frames
        return None
    bits.number(1)
    left, right, top, bottom = [bits.golomb() for _ in range(4)] if bits.number(1) else [0] * 4
    full_range, in_order = _parse_usability(bits) if bits.number(1) else (False, False)
    return FrameFormat(
        width=MACROBLOCK_PX * columns - 2 * (left + right),
        height=MACROBLOCK_PX * rows - 2 * (top + bottom),
        full_range=full_range,
        in_order=in_order,
    )


def _skip_picture_order(bits: _Bits) -> None:
    kind = bits.golomb()
    if kind == 0:
        bits.golomb()
    elif kind == 1:
        bits.number(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()


def _parse_usability(bits: _Bits) -> tuple[bool, bool]:
    """Read the usability information (ISO 14496-10, E.1.1): whether the range is full, and frames are in order."""
    if bits.number(1) and bits.number(8) == EXTENDED_ASPECT:
        bits.number(32)
    if bits.number(1):
        bits.number(1)
    full_range = False
    if bits.number(1):
        full_range = bool(bits.number(4) & 1)
        if bits.number(1):
            bits.number(24)
    if bits.number(1):
        bits.golomb(), bits.golomb()
    if bits.number(1):
        bits.number(65)
    has_buffer_model = bits.number(1) or bits.number(1)
    if has_buffer_model:
        return full_range, False
    bits.number(1)
    if not bits.number(1):
        return full_range, False
    bits.number(1)
    _, _, _, _, reordered_frames = (bits.golomb() for _ in range(5))
    return full_range, reordered_frames == 0
