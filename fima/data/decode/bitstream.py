"""What the bytes of a packet tell without decoding them: packed B-frames of MPEG-4, pictures of H.264 to leave out.

Both pay for themselves: docs/performance.md.
"""

from collections.abc import Callable

VOP_START_CODE = b"\x00\x00\x01\xb6"
B_VOP = 2
SMALLEST_CODED_VOP_BYTES = 10
H264_SLICE_TYPES = (1, 5)


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


def unreferenced_test(codec: str, extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """A test whether no other picture refers to a packet's picture, so that others decode the same without it.

    MPEG-4 part 2 has such pictures too, but FFmpeg's decoder learns an encoder's faults from every picture.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: the stream's global header.

    Returns:
        The codec's test; None for codecs other than H.264 with length prefixes.
    """
    if codec == "h264" and extradata is not None and len(extradata) > 4 and extradata[0] == 1:
        length_bytes = (extradata[4] & 3) + 1
        return lambda packet: _h264_is_unreferenced(packet, length_bytes)
    return None


def _h264_is_unreferenced(packet: bytes, length_bytes: int) -> bool:
    """Whether nal_ref_idc is 0 in every slice (ISO 14496-10, 7.4.1; units prefixed by their length)."""
    position, reference_ids = 0, []
    while position + length_bytes < len(packet):
        size = int.from_bytes(packet[position : position + length_bytes], "big")
        header = packet[position + length_bytes]
        if header & 31 in H264_SLICE_TYPES:
            reference_ids.append(header >> 5 & 3)
        position += length_bytes + size
    return bool(reference_ids) and not any(reference_ids)
