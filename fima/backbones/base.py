"""What every backbone has in common."""

from torch import nn


class Backbone(nn.Module):
    """A 3-D CNN from clips, (B, 3, T, H, W), to feature maps, (B, C, t, h, w)."""

    num_features: int
    """Channels C of the feature map."""
