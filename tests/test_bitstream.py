import pytest

from fima.data.decode.bitstream import VOP_START_CODE, PackedFrames, unreferenced_test

LENGTH_PREFIXED = bytes([1, 100, 0, 10, 0xFF])


def vop(coding_type: int, size: int = 20) -> bytes:
    return VOP_START_CODE + bytes([coding_type << 6]) + bytes(size)


def unit(reference_id: int, unit_type: int, size: int = 10) -> bytes:
    return (size + 1).to_bytes(4, "big") + bytes([reference_id << 5 | unit_type]) + bytes(size)


PARTS = {"i": vop(0), "p": vop(1), "b": vop(2), "n": vop(1, size=1), "x": b"no picture at all"}


def followed(packets: str) -> PackedFrames:
    packed = PackedFrames()
    for packet in packets.split():
        packed.add(b"".join(map(PARTS.__getitem__, packet)))
    return packed


def test_one_picture_a_packet() -> None:
    assert followed("i p b p").one_frame_each
    assert not followed("i pb").one_frame_each
    assert not followed("i n").one_frame_each


@pytest.mark.parametrize("packets", ["", "i p p", "i pb b n pb n", "i pb b", "i pb n p pb"])
def test_packets_with_one_frame_each(packets: str) -> None:
    assert followed(packets).regular


@pytest.mark.parametrize("packets", ["i n", "ipb p", "i pbb n", "i bp n", "i pb pb", "x"])
def test_other_patterns(packets: str) -> None:
    assert not followed(packets).regular


def test_h264_needs_every_slice_unreferenced() -> None:
    test = unreferenced_test("h264", LENGTH_PREFIXED)
    assert test is not None
    assert test(unit(0, 6) + unit(0, 1) + unit(0, 1)) is True
    assert test(unit(0, 6) + unit(0, 1) + unit(2, 1)) is False
    assert test(unit(3, 5)) is False
    assert test(unit(0, 6)) is False
    assert test(b"") is False


def test_other_streams_are_decoded_whole() -> None:
    assert unreferenced_test("h264", None) is None
    assert unreferenced_test("h264", b"\x00\x00\x00\x01\x67") is None
    assert unreferenced_test("vp9", None) is None
    assert unreferenced_test("mpeg4", None) is None
