"""A network of five layers, for CPUs and small frames."""

from torch import Tensor, nn

from fima.backbones.base import Backbone

LAYERS = (
    (16, 3, (1, 2, 2)),
    (32, 3, (1, 2, 2)),
    (64, 3, (2, 2, 2)),
    (128, 3, (2, 2, 2)),
    (512, 1, (1, 1, 1)),
)
"""Channels, side of the kernel and strides (time, height, width) of each layer."""
CLIP_VARIANCE_FLOOR = 1e-4


class Tiny(Backbone):
    """Convolution, batch norm and ReLU, five times: (B, 3, T, H, W) → (B, 512, T/4, H/16, W/16), under 1 M parameters.

    Each clip is first brought to mean 0 and variance 1, over its pixels and channels together. Large networks learn to
    ignore brightness and contrast from the colour augmentation; in the few hundred steps that this one is meant for,
    the augmentation would drown the frame differences, most of whose pixels are one even grey.
    """

    num_features = LAYERS[-1][0]

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.GroupNorm(1, 3, eps=CLIP_VARIANCE_FLOOR, affine=False)]
        channels = 3
        for out_channels, kernel, stride in LAYERS:
            layers += [
                nn.Conv3d(channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
                nn.BatchNorm3d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels = out_channels
        self.layers = nn.Sequential(*layers)
        # The ReLU after each convolution and its batch norm.
        self.stages = {f"layers.{3 * number}": layer[0] for number, layer in enumerate(LAYERS, start=1)}

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, 512, t, h, w) of clips (B, 3, T, H, W)."""
        features: Tensor = self.layers(clip)
        return features
