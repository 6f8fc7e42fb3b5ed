import torch

from fima.method.motion import frame_difference
from tests.reference import golden_parts


def test_agrees_with_the_recorded_numbers() -> None:
    parts = golden_parts()
    torch.testing.assert_close(
        frame_difference(parts["frame_difference.clip"]), parts["frame_difference.out"], rtol=0, atol=1e-9
    )


def test_each_frame_is_compared_with_the_one_before_and_the_first_with_the_last() -> None:
    clip = torch.rand(2, 3, 5, 4, 6)
    difference = frame_difference(clip)
    for frame in range(5):
        before = clip[:, :, frame - 1] if frame else clip[:, :, 4]
        torch.testing.assert_close(difference[:, :, frame], (clip[:, :, frame] - before + 1) / 2)


def test_a_still_clip_is_grey() -> None:
    assert (frame_difference(torch.rand(1, 3, 1, 4, 4).expand(-1, -1, 6, -1, -1)) == 0.5).all()
