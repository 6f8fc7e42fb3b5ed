"""Foreground sampling: the cells of a feature map where the encoder is most active."""

from torch import Tensor

from fima.method.losses import full_precision


def activation_map(features: Tensor, difference_features: Tensor | None = None) -> Tensor:
    """Class-agnostic activation map of a clip: where the encoder responds (paper, section on foreground sampling).

    Feature maps (B, C, t, h, w) of the RGB view and, where given, of the frame difference are averaged over channels
    and time, and added: (B, h, w), at least float32.
    """
    activation = full_precision(features).mean(dim=(1, 2))
    if difference_features is not None:
        activation = activation + full_precision(difference_features).mean(dim=(1, 2))
    return activation


def foreground_mask(activation: Tensor) -> Tensor:
    """Cells of maps (B, h, w) whose activation is strictly greater than the sample's median: true for foreground.

    The median of an even number of cells is the lower of the two middle values, so that exactly half of the cells (when
    none are equal) is foreground.
    """
    median = activation.flatten(1).median(dim=1).values
    return activation > median[:, None, None]
