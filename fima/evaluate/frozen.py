"""An encoder as evaluation knows it, whichever program it comes from: a network, and the clips that it takes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fima.checkpoints.checkpoint import weights_hash
from fima.data.augment import MEAN, STD
from fima.data.eval_clips import ClipSettings
from fima.errors import ConfigError, UserError, first_line
from fima.evaluate.features import encode
from fima.method.heads import pooled

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """A frozen encoder of any program, with its preprocessing."""

    name: str
    """What tables call it."""
    network: Network
    """RGB clips in [0, 1], minus `mean`, by `std`, float32 (B, 3, F, S, S) -> feature maps (B, C, t, h, w), or vectors
    (B, C). A module is put into eval mode and moved to the device; any other function gets clips on that device."""
    clips: ClipSettings = field(default_factory=lambda: ClipSettings(frames=16, crop_size=224))
    """The clips that it was trained on: frames F, side S, and the distance between frames."""
    mean: tuple[float, float, float] = MEAN
    """Of the red, green and blue pixels."""
    std: tuple[float, float, float] = STD
    """Of the red, green and blue pixels."""
    identity: str | None = None
    """Identifies the weights in the cache of features. None: the hash of a module's weights; the features of another
    function are not kept."""
    untrained: Callable[[], Network] | None = None
    """Builds the same architecture with random weights, the floor of the protocol `diagnosis`; None: without it."""
    assumption: str = ""
    """What the file does not say, and what is done instead, as a sentence; `{clips}` stands for what is shown."""
    file: Path | None = None
    """What results are written next to; None: they go to the current folder."""
    about: dict[str, Any] = field(default_factory=dict)
    """What results say of it besides; plain values."""

    @cached_property
    def module(self) -> nn.Module:
        """From what `features.normalised` gives to maps (B, C, t, h, w), of one cell for vectors; in eval mode."""
        is_backbone = isinstance(self.network, nn.Module) and hasattr(self.network, "num_features")
        fits = is_backbone and (self.mean, self.std) == (MEAN, STD)
        return (cast(nn.Module, self.network) if fits else _Adapted(self)).eval()

    @cached_property
    def key(self) -> str | None:
        """What features are cached by; None: they are not."""
        if self.identity is not None or not isinstance(self.network, nn.Module):
            return self.identity
        return weights_hash(self.network, f"{self.mean} {self.std}")

    @property
    def fingerprint(self) -> str:
        """Its key; its name, where it has none."""
        return self.key or self.name

    @property
    def floor(self) -> nn.Module | None:
        """The module of the same architecture with random weights, seed 0; None where it cannot be built."""
        if self.untrained is None:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return replace(self, network=self.untrained()).module

    def vectors(self, clips: Tensor) -> Tensor:
        """Return float32 vectors (B, C) of uint8 clips (B, 3, F, S, S) on its device: the mean of its feature map.

        Raises ConfigError for clips of another type.
        """
        if clips.dtype != torch.uint8:
            given = f"{clips.dtype} of {tuple(clips.shape)}"
            raise ConfigError(f"clips must be uint8 of shape (B, 3, F, S, S), not {given}")
        return pooled(encode(self.module, clips))

    def assumed(self, clips: ClipSettings) -> str:
        """Return what is assumed where it is shown such clips, as a sentence; empty where nothing is."""
        return self.assumption.replace("{clips}", f"{clips.frames} frames of {clips.crop_size} px, {clips.timing}")

    def preprocessing(self, clips: ClipSettings) -> str:
        """Return in words what it is shown of videos that are cut into such clips."""
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (self.mean, self.std))
        return f"{clips.frames} frames, {clips.timing}, {clips.crop_size} px, mean {mean}, std {std}"


class _Adapted(nn.Module):
    """A network behind the normalisation that it expects, checked for what it returns."""

    scale: Tensor
    offset: Tensor

    def __init__(self, encoder: FrozenEncoder) -> None:
        super().__init__()
        self.name = encoder.name
        self.network = encoder.network
        inner: dict[str, int] = getattr(encoder.network, "stages", {})
        self.stages = {f"network.{stage}": channels for stage, channels in inner.items()}
        own, given = torch.tensor([encoder.mean, encoder.std]), torch.tensor([MEAN, STD])
        # Of a pixel p: ((p - MEAN) / STD) · scale + offset = (p - mean) / std.
        self.register_buffer("scale", (given[1] / own[1]).view(3, 1, 1, 1))
        self.register_buffer("offset", ((given[0] - own[0]) / own[1]).view(3, 1, 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """Feature map (B, C, t, h, w) of clips (B, 3, F, S, S)."""
        found = self.network(clips * self.scale + self.offset)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim not in (2, 5) or len(found) != len(clips):
            raise ConfigError(
                f"{self.name}: returns {shape} for {len(clips)} clips; a tensor (B, C) or (B, C, t, h, w) is needed"
            )
        return found if found.ndim == 5 else found[:, :, None, None, None]


def check_fits(encoder: nn.Module, clips: ClipSettings, *, name: str, device: torch.device) -> bool:
    """Refuse clips that an encoder cannot take; return whether it gives maps of more than one cell.

    The encoder is in eval mode on the device: (B, 3, F, S, S) normalised RGB -> (B, C) or (B, C, t, h, w). Raises
    ConfigError where it does not take them, or returns something else.
    """
    blank = torch.zeros(1, 3, clips.frames, clips.crop_size, clips.crop_size, device=device)
    try:
        with torch.inference_mode():
            found: Tensor = encoder(blank)
    except UserError:
        raise
    except Exception as error:  # of any program, in its own words
        if "out of memory" in str(error):
            raise
        raise ConfigError(
            f"--frames {clips.frames} --crop-size {clips.crop_size}: {name} takes no such clips ({first_line(error)})"
        ) from error
    return found[0, 0].numel() > 1
