"""What the bytes of a video packet tell without decoding them: MPEG-4 part 2 and H.264."""

from collections.abc import Callable

VOP_START_CODE = b"\x00\x00\x01\xb6"
B_VOP = 2
SMALLEST_CODED_VOP_BYTES = 10
H264_SLICE_TYPES = (1, 5)


def has_one_coded_vop(packet: bytes) -> bool:
    """Whether an MPEG-4 part 2 packet holds exactly one picture, as most do.

    Packets of DivX and XviD with "packed B-frames" hold two, followed by a placeholder of a few bytes with none.
    """
    return len(packet) >= SMALLEST_CODED_VOP_BYTES and packet.count(VOP_START_CODE) == 1


def unreferenced_test(codec: str, extradata: bytes | None) -> Callable[[bytes], bool]:
    """A test whether no other picture refers to a packet's picture, so that others decode the same without it.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: the stream's global header.

    Returns:
        The codec's test; one that is never true for codecs other than H.264 with length prefixes, and MPEG-4 part 2.
    """
    if codec == "mpeg4":
        return _mpeg4_is_unreferenced
    if codec == "h264" and extradata is not None and len(extradata) > 4 and extradata[0] == 1:
        length_bytes = (extradata[4] & 3) + 1
        return lambda packet: _h264_is_unreferenced(packet, length_bytes)
    return lambda packet: False


def _mpeg4_is_unreferenced(packet: bytes) -> bool:
    """Whether the picture is a B-VOP (ISO 14496-2, 6.2.5: vop_coding_type is the two bits after the start code)."""
    position = packet.find(VOP_START_CODE) + len(VOP_START_CODE)
    return len(VOP_START_CODE) <= position < len(packet) and packet[position] >> 6 == B_VOP


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
