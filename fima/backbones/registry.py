"""The backbones by name: ours, torchvision's, and those of other packages. Importing it does not load PyTorch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from fima.errors import ConfigError
from fima.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from fima.backbones.base import Backbone

    BuildBackbone = Callable[[], nn.Module]

BACKBONES = Registry["BuildBackbone"](
    "backbone",
    {
        "i3d": "fima.backbones.i3d:I3D",
        "r2plus1d_18": "fima.backbones.torchvision_video:r2plus1d_18",
        "r3d_18": "fima.backbones.torchvision_video:r3d_18",
        "small": "fima.backbones.small:Small",
        "tiny": "fima.backbones.tiny:Tiny",
        "mc3_18": "fima.backbones.torchvision_video:mc3_18",
        "s3d": "fima.backbones.torchvision_video:S3D",
        "swin3d_t": "fima.backbones.torchvision_video:swin3d_t",
        "swin3d_s": "fima.backbones.torchvision_video:swin3d_s",
        "swin3d_b": "fima.backbones.torchvision_video:swin3d_b",
        "mvit_v2_s": "fima.backbones.torchvision_video:MViTv2S",
    },
)
"""Functions that take nothing and return a backbone with random weights, by the name in `--model.backbone`."""


def register_backbone(name: str, build: "BuildBackbone") -> None:
    """Make a backbone known as `--model.backbone` for this process; an entry point does so for the command line.

    `build` returns the module with random weights: (B, 3, T, H, W) -> (B, `num_features`, t, h, w), with any t >= 1.

    Raises:
        ConfigError: there is one of that name.
    """
    BACKBONES.register(name, build)


def build_backbone(name: str) -> "Backbone":
    """A backbone with random weights: (B, 3, T, H, W) → (B, `num_features`, t, h, w).

    Raises:
        ConfigError: there is no backbone of that name, or it does not say how many channels it has.
    """
    built = BACKBONES.builder(name, flag="model.backbone")()
    if not isinstance(getattr(built, "num_features", None), int):
        raise ConfigError(f"backbone {name}: has no whole number `num_features`, the channels C of its feature map")
    return cast("Backbone", built)
