"""R(2+1)D-18 and R3D-18 (Tran et al., 2018): torchvision's networks and parameter names, without the classifier."""

from torch import Tensor
from torchvision.models import video

from fima.model.backbones.base import Backbone


class ResNet3D(Backbone):
    """The convolutional part of a torchvision video ResNet: (B, 3, T, H, W) → (B, 512, T/8, H/16, W/16).

    Args:
        network: the torchvision network.
    """

    num_features = 512

    def __init__(self, network: video.resnet.VideoResNet) -> None:
        super().__init__()
        self.stem = network.stem
        self.layer1 = network.layer1
        self.layer2 = network.layer2
        self.layer3 = network.layer3
        self.layer4 = network.layer4

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, 512, t, h, w) of clips (B, 3, T, H, W)."""
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clip)))))
        return features


def r2plus1d_18() -> ResNet3D:
    """R(2+1)D-18 with random weights."""
    return ResNet3D(video.r2plus1d_18(weights=None))


def r3d_18() -> ResNet3D:
    """R3D-18 with random weights."""
    return ResNet3D(video.r3d_18(weights=None))
