"""Torchvision's video networks with its parameter names, without the classifier.

R(2+1)D-18, R3D-18 and MC3-18 (Tran et al., 2018), S3D (Xie et al., 2018), Video Swin (Liu et al., 2022) and MViTv2 (Li
et al., 2022). MViTv1 is not among them: its learned positions belong to one size of clips.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torchvision.models import video

from fima.backbones.base import Backbone


class TorchvisionVideo(Backbone):
    """Parts of a torchvision network, by its names, one after another; the weights are random."""

    takes_bfloat16 = True

    def __init__(self, network: nn.Module, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, network.get_submodule(name))

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, C, t, h, w) of clips (B, 3, T, H, W)."""
        for part in self.children():
            clip = part(clip)
        return clip


class ResNet3D(TorchvisionVideo):
    """The convolutional part of a torchvision video ResNet: (B, 3, T, H, W) → (B, 512, T/8, H/16, W/16).

    All convolutions of MC3-18 keep T: (B, 512, T, H/16, W/16).
    """

    num_features = 512

    def __init__(self, build: Callable[[], video.resnet.VideoResNet]) -> None:
        super().__init__(build(), "stem", "layer1", "layer2", "layer3", "layer4")
        self.stages = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}


r2plus1d_18 = partial(ResNet3D, video.r2plus1d_18)
r3d_18 = partial(ResNet3D, video.r3d_18)
mc3_18 = partial(ResNet3D, video.mc3_18)


class S3D(TorchvisionVideo):
    """The convolutional part of S3D: (B, 3, T, H, W) → (B, 1024, T/8, H/32, W/32)."""

    num_features = 1024

    def __init__(self) -> None:
        super().__init__(video.s3d(weights=None), "features")
        self.stages = {"features.3": 192, "features.6": 480, "features.12": 832, "features.15": 1024}


class Swin3D(TorchvisionVideo):
    """Video Swin: (B, 3, T, H, W) → (B, C, T/2, H/32, W/32), sizes that the patches do not divide rounded up."""

    def __init__(self, build: Callable[[], video.swin_transformer.SwinTransformer3d]) -> None:
        network = build()
        super().__init__(network, "patch_embed", "pos_drop", "features", "norm")
        self.num_features = int(network.num_features)
        # Channels double from each of the four stages to the next.
        self.stages = {f"features.{2 * number}": self.num_features >> (3 - number) for number in range(4)}

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, C, t, h, w) of clips (B, 3, T, H, W)."""
        return super().forward(clip).permute(0, 4, 1, 2, 3)


swin3d_t = partial(Swin3D, video.swin3d_t)
swin3d_s = partial(Swin3D, video.swin3d_s)
swin3d_b = partial(Swin3D, video.swin3d_b)


class MViTv2S(Backbone):
    """MViTv2-S: (B, 3, T, H, W) → (B, 768, T/2, H/32, W/32); the class token is dropped.

    Its relative positions are interpolated to the size of the clips.
    """

    num_features = 768
    takes_bfloat16 = True

    def __init__(self) -> None:
        super().__init__()
        network = video.mvit_v2_s(weights=None)
        self.conv_proj = network.conv_proj
        self.pos_encoding = network.pos_encoding
        self.blocks = network.blocks
        self.norm = network.norm
        widths = [block.norm2.normalized_shape[0] for block in network.blocks]
        self.stages = {f"blocks.{last}": width for last, width in enumerate(widths) if width not in widths[last + 1 :]}

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, C, t, h, w) of clips (B, 3, T, H, W)."""
        patches: Tensor = self.conv_proj(clip)
        size = (patches.shape[2], patches.shape[3], patches.shape[4])
        tokens: Tensor = self.pos_encoding(patches.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens, size = block(tokens, size)
        features: Tensor = self.norm(tokens)[:, 1:].transpose(1, 2).reshape(len(clip), self.num_features, *size)
        return features
