"""Torchvision's video transformers with its parameter names, without the classifier.

Video Swin (Liu et al., 2022) and MViTv2 (Li et al., 2022). MViTv1 is not among them: its learned positions belong to
one size of clips.
"""

from torch import Tensor
from torchvision.models import video

from fima.backbones.base import Backbone


class Swin3D(Backbone):
    """Video Swin: (B, 3, T, H, W) → (B, C, T/2, H/32, W/32), sizes that the patches do not divide rounded up."""

    takes_bfloat16 = True

    def __init__(self, network: video.swin_transformer.SwinTransformer3d) -> None:
        super().__init__()
        self.patch_embed = network.patch_embed
        self.pos_drop = network.pos_drop
        self.features = network.features
        self.norm = network.norm
        self.num_features = int(network.num_features)
        # Channels double from each of the four stages to the next.
        self.stages = {f"features.{2 * number}": self.num_features >> (3 - number) for number in range(4)}

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, C, t, h, w) of clips (B, 3, T, H, W)."""
        tokens: Tensor = self.norm(self.features(self.pos_drop(self.patch_embed(clip))))
        return tokens.permute(0, 4, 1, 2, 3)


def swin3d_t() -> Swin3D:
    """Swin3D-T with random weights, C = 768."""
    return Swin3D(video.swin3d_t(weights=None))


def swin3d_s() -> Swin3D:
    """Swin3D-S with random weights, C = 768."""
    return Swin3D(video.swin3d_s(weights=None))


def swin3d_b() -> Swin3D:
    """Swin3D-B with random weights, C = 1024."""
    return Swin3D(video.swin3d_b(weights=None))


class MViT(Backbone):
    """MViTv2: (B, 3, T, H, W) → (B, C, T/2, H/32, W/32), C of its last block; the class token is dropped.

    Its relative positions are interpolated to the size of the clips.
    """

    takes_bfloat16 = True

    def __init__(self, network: video.mvit.MViT, num_features: int) -> None:
        super().__init__()
        self.conv_proj = network.conv_proj
        self.pos_encoding = network.pos_encoding
        self.blocks = network.blocks
        self.norm = network.norm
        self.num_features = num_features
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


def mvit_v2_s() -> MViT:
    """MViTv2-S with random weights, C = 768."""
    network = video.mvit_v2_s(weights=None)
    return MViT(network, network.norm.normalized_shape[0])
