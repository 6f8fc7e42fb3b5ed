"""What bytes tell without decoding: packed B-frames of MPEG-4, pictures of H.264 to leave out, the end of a JPEG.

All of it pays for itself: docs/data.md.
"""

import re
from collections.abc import Callable, Iterator

VOP_START_CODE = b"\x00\x00\x01\xb6"
B_VOP = 2
SMALLEST_CODED_VOP_BYTES = 10
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Of a segment, not of what is between the markers of a scan (ISO 10918-1, B.1.1)."""
H264_SLICE_TYPES = (1, 5)
SLICE_HEADER_BYTES = 64
"""More than the header of a slice takes."""


class PackedFrames:
    """Follows the packets of MPEG-4 part 2: whether each gives a frame, and each frame is in a packet of its own.

    A packet of a reference picture and a B-picture is followed by packets of one B-picture each, and at last by a
    placeholder of a few bytes: from one packet to the next a B-picture waits, in whose place the decoder keeps the next
    one. One that still waits at the end is never decoded.
    """

    def __init__(self) -> None:
        self.one_frame_each = True
        """Whether so far no packet held anything but one picture."""
        self.regular = True
        """Whether so far the packets follow that pattern, so that there are as many frames as packets."""
        self._waiting = False

    def add(self, packet: bytes) -> None:
        """Looks at the next packet."""
        # Searching from both ends takes a third of the time of counting.
        first, last = packet.find(VOP_START_CODE), packet.rfind(VOP_START_CODE)
        placeholder = len(packet) < SMALLEST_CODED_VOP_BYTES
        if 0 <= first == last and not placeholder:
            self.regular &= not self._waiting or _is_b_vop(packet, first)
            return
        self.one_frame_each = False
        if 0 <= first == last:
            self.regular &= self._waiting
            self._waiting = False
        else:
            two = 0 <= first == packet.rfind(VOP_START_CODE, 0, last)
            self.regular &= two and not self._waiting and _is_b_vop(packet, last) and not _is_b_vop(packet, first)
            self._waiting = True


def _is_b_vop(packet: bytes, start: int) -> bool:
    """Whether a picture is a B-VOP (ISO 14496-2, 6.2.5: its type is two bits after the start code)."""
    position = start + len(VOP_START_CODE)
    return position < len(packet) and packet[position] >> 6 == B_VOP


def is_whole_jpeg(content: bytes) -> bool:
    """Whether a JPEG, or the last of several in a row, has its end: FFmpeg makes up what is missing of one."""
    return content.rfind(JPEG_END) > content.rfind(JPEG_SCAN)


def begins_with_whole_jpeg(content: bytes) -> bool:
    """Whether a file is a JPEG with its end, whatever follows: phones put short videos behind their pictures."""
    if is_whole_jpeg(content):
        return True  # nearly always, and in no time
    position = len(JPEG_START)
    while (marker := JPEG_MARKER.search(content, position)) and marker[0] != JPEG_END:
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return marker is not None


def unreferenced_test(codec: str, extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """A test whether no other picture refers to a packet's picture, so that others decode the same without it.

    None for codecs other than H.264 with length prefixes. MPEG-4 part 2 has such pictures too, but FFmpeg's decoder
    learns an encoder's faults from every picture.
    """
    length_bytes = h264_length_bytes(codec, extradata)
    if length_bytes is None:
        return None

    def is_unreferenced(packet: bytes) -> bool:
        # nal_ref_idc is 0 in every slice (ISO 14496-10, 7.4.1).
        headers = (packet[position] for position, _ in h264_units(packet, length_bytes))
        reference_ids = [header >> 5 & 3 for header in headers if header & 31 in H264_SLICE_TYPES]
        return bool(reference_ids) and not any(reference_ids)

    return is_unreferenced


def h264_length_bytes(codec: str, extradata: bytes | None) -> int | None:
    """Bytes of the lengths that stand before units (ISO 14496-15, 5.3.3.1); None where it is no H.264 with lengths."""
    has_lengths = codec == "h264" and extradata is not None and len(extradata) > 4 and extradata[0] == 1
    return (extradata[4] & 3) + 1 if has_lengths and extradata is not None else None


def h264_units(packet: bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Where each unit of a packet of H.264 begins and how long it is, without its length prefix."""
    position = length_bytes
    while position < len(packet):
        size = int.from_bytes(packet[position - length_bytes : position], "big")
        yield position, size
        position += size + length_bytes


def h264_picture_header(packet: bytes, length_bytes: int) -> bytes:
    """The packet up to the header of its first slice, which tells a decoder all but the pixels."""
    for position, size in h264_units(packet, length_bytes):
        if packet[position] & 31 in H264_SLICE_TYPES:
            kept = min(size, SLICE_HEADER_BYTES)
            return packet[: position - length_bytes] + kept.to_bytes(length_bytes, "big") + packet[position:][:kept]
    return packet
