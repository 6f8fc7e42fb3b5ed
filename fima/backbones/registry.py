"""The backbones by name: ours, torchvision's, and those of other packages. Importing it does not load PyTorch."""

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, cast

from fima.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from torch import nn

    from fima.backbones.base import Backbone

    BuildBackbone = Callable[[], nn.Module]

ENTRY_POINTS = "fima.backbones"
"""Entry points of this group, in any installed package, name functions that take nothing and return a backbone."""

BUILT_IN = {
    "i3d": "fima.backbones.i3d:I3D",
    "r2plus1d_18": "fima.backbones.torchvision_cnn:r2plus1d_18",
    "r3d_18": "fima.backbones.torchvision_cnn:r3d_18",
    "small": "fima.backbones.small:Small",
    "tiny": "fima.backbones.tiny:Tiny",
    "mc3_18": "fima.backbones.torchvision_cnn:mc3_18",
    "s3d": "fima.backbones.torchvision_cnn:s3d",
    "swin3d_t": "fima.backbones.torchvision_transformer:swin3d_t",
    "swin3d_s": "fima.backbones.torchvision_transformer:swin3d_s",
    "swin3d_b": "fima.backbones.torchvision_transformer:swin3d_b",
    "mvit_v2_s": "fima.backbones.torchvision_transformer:mvit_v2_s",
}

_registered: "dict[str, BuildBackbone]" = {}


def register_backbone(name: str, build: "BuildBackbone") -> None:
    """Make a backbone known for the rest of the process; an entry point makes it known to the command line as well.

    Args:
        name: what `--model.backbone` calls it.
        build: returns the module with random weights: (B, 3, T, H, W) -> (B, `num_features`, t, h, w), with any t >= 1.

    Raises:
        ConfigError: there is one of that name.
    """
    if name in BUILT_IN or _registered.get(name, build) is not build:
        raise ConfigError(f"backbone {name}: there is one of that name; choose another")
    _registered[name] = build


def backbone_names() -> list[str]:
    """Every name, ours first; no package is imported."""
    return list(dict.fromkeys([*BUILT_IN, *_registered, *sorted(_installed())]))


def backbone_builder(name: str) -> "BuildBackbone":
    """What builds a backbone of a name.

    Raises:
        ConfigError: there is none of that name, or the package that has it cannot be imported.
    """
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        return cast("BuildBackbone", getattr(importlib.import_module(module), attribute))
    check_backbone(name, flag="model.backbone")
    entry = _installed()[name]
    try:
        return cast("BuildBackbone", entry.load())
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"backbone {name}: `{entry.value}` cannot be imported ({error})") from None


def build_backbone(name: str) -> "Backbone":
    """A backbone with random weights: (B, 3, T, H, W) → (B, `num_features`, t, h, w).

    Raises:
        ConfigError: there is no backbone of that name, or it does not say how many channels it has.
    """
    built = backbone_builder(name)()
    if not isinstance(getattr(built, "num_features", None), int):
        raise ConfigError(f"backbone {name}: has no whole number `num_features`, the channels C of its feature map")
    return cast("Backbone", built)


def check_backbone(name: str, *, flag: str) -> None:
    """Refuse an unknown name.

    Raises:
        ConfigError: with the nearest name, or all of them.
    """
    if name not in BUILT_IN and name not in _registered and name not in _installed():
        raise ConfigError(f"--{flag} {name}: no such backbone{suggestion(name, backbone_names())}")


def _installed() -> dict[str, metadata.EntryPoint]:
    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
