"""The 3-D CNNs that can be pre-trained. To add one: a `Backbone` in a file of its own, a line in the table, its name in
`fima.config.ModelConfig.backbone`.
"""

from collections.abc import Callable

from fima.errors import ConfigError
from fima.model.backbones.base import Backbone
from fima.model.backbones.i3d import I3D
from fima.model.backbones.resnet3d import r2plus1d_18, r3d_18
from fima.model.backbones.tiny import Tiny

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "i3d": I3D,
    "r2plus1d_18": r2plus1d_18,
    "r3d_18": r3d_18,
    "tiny": Tiny,
}


def build_backbone(name: str) -> Backbone:
    """A backbone with random weights: (B, 3, T, H, W) → (B, `num_features`, t, h, w).

    Raises:
        ConfigError: there is no backbone of that name.
    """
    if name not in BACKBONES:
        raise ConfigError(f"--model.backbone {name}: must be one of {', '.join(BACKBONES)}")
    return BACKBONES[name]()
