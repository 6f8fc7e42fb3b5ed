"""Torchvision's 3-D CNNs with its parameter names, without the classifier.

R(2+1)D-18, R3D-18 and MC3-18 (Tran et al., 2018), S3D (Xie et al., 2018).
"""

from torch import Tensor
from torchvision.models import video

from fima.backbones.base import Backbone


class ResNet3D(Backbone):
    """The convolutional part of a torchvision video ResNet: (B, 3, T, H, W) → (B, 512, T/8, H/16, W/16)."""

    num_features = 512
    takes_bfloat16 = True

    def __init__(self, network: video.resnet.VideoResNet) -> None:
        super().__init__()
        self.stem = network.stem
        self.layer1 = network.layer1
        self.layer2 = network.layer2
        self.layer3 = network.layer3
        self.layer4 = network.layer4
        self.stages = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}

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


def mc3_18() -> ResNet3D:
    """MC3-18 with random weights; all its convolutions keep T: (B, 3, T, H, W) → (B, 512, T, H/16, W/16)."""
    return ResNet3D(video.mc3_18(weights=None))


class S3D(Backbone):
    """The convolutional part of S3D: (B, 3, T, H, W) → (B, 1024, T/8, H/32, W/32)."""

    num_features = 1024
    takes_bfloat16 = True

    def __init__(self) -> None:
        super().__init__()
        self.features = video.s3d(weights=None).features
        self.stages = {"features.3": 192, "features.6": 480, "features.12": 832, "features.15": 1024}

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, 1024, t, h, w) of clips (B, 3, T, H, W)."""
        features: Tensor = self.features(clip)
        return features
