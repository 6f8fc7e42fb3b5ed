"""What every backbone has in common."""

from collections.abc import Mapping

from torch import nn


class Backbone(nn.Module):
    """A 3-D CNN from clips, (B, 3, T, H, W), to feature maps, (B, C, t, h, w)."""

    num_features: int
    """Channels C of the feature map."""
    stages: Mapping[str, int]
    """Modules whose outputs are feature maps of rising depth, with their channels: what `--features depths` looks at.
    Not every backbone has it."""
    takes_bfloat16 = False
    """Whether, under autocast, nothing is computed on a clip before it is taken to bfloat16."""
