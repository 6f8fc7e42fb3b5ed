import pytest

from fima.data.bitstream import VOP_START_CODE, has_one_coded_vop, unreferenced_test

LENGTH_PREFIXED = bytes([1, 100, 0, 10, 0xFF])


def vop(coding_type: int, size: int = 20) -> bytes:
    return VOP_START_CODE + bytes([coding_type << 6]) + bytes(size)


def unit(reference_id: int, unit_type: int, size: int = 10) -> bytes:
    return (size + 1).to_bytes(4, "big") + bytes([reference_id << 5 | unit_type]) + bytes(size)


def test_packed_and_placeholder_packets() -> None:
    assert has_one_coded_vop(vop(1))
    assert not has_one_coded_vop(vop(1) + vop(2))
    assert not has_one_coded_vop(vop(1, size=1))


@pytest.mark.parametrize(("coding_type", "unreferenced"), [(0, False), (1, False), (2, True), (3, False)])
def test_mpeg4_b_pictures(coding_type: int, unreferenced: bool) -> None:
    assert unreferenced_test("mpeg4", None)(vop(coding_type)) is unreferenced
    assert unreferenced_test("mpeg4", None)(b"\x00" * 20) is False


def test_h264_needs_every_slice_unreferenced() -> None:
    test = unreferenced_test("h264", LENGTH_PREFIXED)
    assert test(unit(0, 6) + unit(0, 1) + unit(0, 1)) is True
    assert test(unit(0, 6) + unit(0, 1) + unit(2, 1)) is False
    assert test(unit(3, 5)) is False
    assert test(unit(0, 6)) is False
    assert test(b"") is False


def test_other_streams_are_decoded_whole() -> None:
    assert unreferenced_test("h264", None)(unit(0, 1)) is False
    assert unreferenced_test("h264", b"\x00\x00\x00\x01\x67")(unit(0, 1)) is False
    assert unreferenced_test("vp9", None)(vop(2)) is False
