"""The 3-D networks that can be pre-trained; `fima.backbones.registry` has their names."""

from typing import cast

from fima.backbones.base import Backbone
from fima.backbones.registry import backbone_builder
from fima.errors import ConfigError


def build_backbone(name: str) -> Backbone:
    """A backbone with random weights: (B, 3, T, H, W) → (B, `num_features`, t, h, w).

    Raises:
        ConfigError: there is no backbone of that name, or it does not say how many channels it has.
    """
    built = backbone_builder(name)()
    if not isinstance(getattr(built, "num_features", None), int):
        raise ConfigError(f"backbone {name}: has no whole number `num_features`, the channels C of its feature map")
    return cast(Backbone, built)
