import pytest

from fima.data.decode.bitstream import VOP_START_CODE, has_one_coded_vop, unpacked_display_numbers, unreferenced_test

LENGTH_PREFIXED = bytes([1, 100, 0, 10, 0xFF])


def vop(coding_type: int, size: int = 20) -> bytes:
    return VOP_START_CODE + bytes([coding_type << 6]) + bytes(size)


def unit(reference_id: int, unit_type: int, size: int = 10) -> bytes:
    return (size + 1).to_bytes(4, "big") + bytes([reference_id << 5 | unit_type]) + bytes(size)


def test_packed_and_placeholder_packets() -> None:
    assert has_one_coded_vop(vop(1))
    assert not has_one_coded_vop(vop(1) + vop(2))
    assert not has_one_coded_vop(vop(1, size=1))


def test_packed_pictures_are_numbered_in_display_order() -> None:
    i, p, b, placeholder = vop(0), vop(1), vop(2), vop(1, size=1)
    assert unpacked_display_numbers([i, p + b, b, placeholder, p + b, placeholder]) == [0, 3, 1, 2, 5, 4]
    assert unpacked_display_numbers([i, p, p]) == [0, 1, 2]
    assert unpacked_display_numbers([i, p + b, b]) == [0, 2, 1]
    assert unpacked_display_numbers([]) == []


@pytest.mark.parametrize("packets", ["i n", "ipb p", "i pbb n", "i bp n", "i pb pb", "x"])
def test_other_patterns_are_not_numbered(packets: str) -> None:
    parts = {"i": vop(0), "p": vop(1), "b": vop(2), "n": vop(1, size=1), "x": b"no picture at all"}
    assert unpacked_display_numbers([b"".join(map(parts.__getitem__, packet)) for packet in packets.split()]) is None


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
