"""Foreground sampling: the cells of a feature map where the encoder is most active."""

from torch import Tensor

from fima.method.losses import full_precision


def activation_map(features: Tensor, difference_features: Tensor | None = None) -> Tensor:
    """Class-agnostic activation map of a clip: where the encoder responds (paper, section on foreground sampling).

    Args:
        features: feature map of the RGB view, (B, C, t, h, w).
        difference_features: feature map of the frame difference, (B, C, t, h, w), whose own map is added.

    Returns:
        Mean over channels and time, summed over the two inputs, (B, h, w), at least float32.
    """
    activation = full_precision(features).mean(dim=(1, 2))
    if difference_features is not None:
        activation = activation + full_precision(difference_features).mean(dim=(1, 2))
    return activation


def foreground_mask(activation: Tensor) -> Tensor:
    """Cells whose activation is strictly greater than the sample's median.

    The median of an even number of cells is the lower of the two middle values, so that exactly half of the cells (when
    none are equal) is foreground.

    Args:
        activation: activation maps, (B, h, w).

    Returns:
        True for foreground, (B, h, w).
    """
    median = activation.flatten(1).median(dim=1).values
    return activation > median[:, None, None]
