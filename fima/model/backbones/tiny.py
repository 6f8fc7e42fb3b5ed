"""A network of five layers, for CPUs and small frames."""

from torch import Tensor, nn

from fima.model.backbones.base import Backbone

LAYERS = (
    (16, 3, (1, 2, 2)),
    (32, 3, (2, 2, 2)),
    (64, 3, (2, 2, 2)),
    (128, 3, (1, 1, 1)),
    (512, 1, (1, 1, 1)),
)
"""Channels, side of the kernel and strides (time, height, width) of each layer."""


class Tiny(Backbone):
    """Convolution, batch norm and ReLU, five times: (B, 3, T, H, W) → (B, 512, T/4, H/8, W/8), under 1 M parameters."""

    num_features = LAYERS[-1][0]

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, kernel, stride in LAYERS:
            layers += [
                nn.Conv3d(channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
                nn.BatchNorm3d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels = out_channels
        self.layers = nn.Sequential(*layers)

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, 512, t, h, w) of clips (B, 3, T, H, W)."""
        features: Tensor = self.layers(clip)
        return features
