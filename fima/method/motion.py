"""Frame difference: the motion view of a clip."""

from torch import Tensor


def frame_difference(clip: Tensor) -> Tensor:
    """Change of every pixel since the frame before, brought back to [0, 1]: a still pixel is 0.5.

    `d[:, :, i] = (x[:, :, i] - x[:, :, i - 1] + 1) / 2`; frame 0 is compared with the last frame (a circular shift), so
    the difference has as many frames as the clip, (B, C, T, H, W) in [0, 1] before any colour augmentation.
    """
    return (clip - clip.roll(1, dims=2) + 1) / 2
