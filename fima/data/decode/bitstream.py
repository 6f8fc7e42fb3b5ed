"""What the bytes of a video packet tell without decoding them: MPEG-4 part 2 and H.264."""

from collections.abc import Callable, Iterable, Sequence

VOP_START_CODE = b"\x00\x00\x01\xb6"
B_VOP = 2
SMALLEST_CODED_VOP_BYTES = 10
H264_SLICE_TYPES = (1, 5)


def has_one_coded_vop(packet: bytes) -> bool:
    """Whether an MPEG-4 part 2 packet holds exactly one picture, as most do.

    Packets of DivX and XviD with "packed B-frames" hold two, followed by a placeholder of a few bytes with none.
    """
    # Searching from both ends takes a third of the time of counting.
    return len(packet) >= SMALLEST_CODED_VOP_BYTES and 0 <= packet.find(VOP_START_CODE) == packet.rfind(VOP_START_CODE)


def unpacked_display_numbers(packets: Iterable[bytes]) -> list[int] | None:
    """Which frame in display order comes out of a decoder with each MPEG-4 part 2 packet with "packed B-frames".

    A packet of a reference picture and a B-picture is followed by packets of one B-picture each, and at last by a
    placeholder: from one packet to the next a B-picture waits, in whose place the decoder keeps the next one. One
    that still waits at the end is never decoded.

    Returns:
        Frame numbers; None where the packets do not follow that pattern.
    """
    is_b: list[bool] = []
    waiting = False
    for packet in packets:
        placeholder = len(packet) < SMALLEST_CODED_VOP_BYTES
        first, last = packet.find(VOP_START_CODE), packet.rfind(VOP_START_CODE)
        if first < 0:
            return None
        if first == last and (not placeholder or waiting):
            b_picture = placeholder or _is_b_vop(packet, first)
            if waiting and not b_picture:
                return None
            is_b.append(b_picture)
            waiting = waiting and not placeholder
        elif first < last and not waiting and _is_b_vop(packet, last) and not _is_b_vop(packet, first):
            if packet.rfind(VOP_START_CODE, 0, last) != first:
                return None
            is_b.append(False)
            waiting = True
        else:
            return None
    return _display_numbers(is_b)


def _display_numbers(is_b: Sequence[bool]) -> list[int]:
    """Places in display order of pictures in coded order: a B-picture comes before the reference stored before it."""
    references = [ordinal for ordinal, b_picture in enumerate(is_b) if not b_picture]
    next_reference = dict(zip(references, [*references, len(is_b)][1:], strict=True))
    order = sorted(range(len(is_b)), key=lambda ordinal: next_reference.get(ordinal, ordinal))
    numbers = [0] * len(is_b)
    for number, ordinal in enumerate(order):
        numbers[ordinal] = number
    return numbers


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


def _is_b_vop(packet: bytes, start: int) -> bool:
    """Whether a picture is a B-VOP (ISO 14496-2, 6.2.5: its type is two bits after the start code)."""
    position = start + len(VOP_START_CODE)
    return position < len(packet) and packet[position] >> 6 == B_VOP


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
