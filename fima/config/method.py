"""The losses and what feeds them, with the paper's values as defaults."""

import contextlib
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from fima.config.checks import require, require_least
from fima.errors import ConfigError

LIGHT: dict[str, Any] = {"instance_weight": 0.0, "decoder": False, "foreground": False, "local_stride": 2}
"""What `method.cost` `light` sets: two key passes of whole clips and four of half as many frames, instead of eight."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The losses and what feeds them."""

    name: str = "fima"
    """`fima`; `moco`: the instance loss alone, on the same clips; or one of another package (docs/extend.md)."""
    cost: Literal["full", "light"] = "full"
    """`full`: the losses as they are set. `light`, for FIMA: no instance loss, decoder or foreground sampling, and
    every second frame of the early and late differences (docs/experiments.md has what it saves and costs)."""
    temperature: float = 0.1
    """Temperature of the instance loss and of the frame-level motion loss."""
    cell_temperature: float = 0.1
    """Temperature of the pixel-level (cell) motion loss."""
    key_momentum: float = 0.999
    """Momentum m of the key encoder's moving average."""
    key_momentum_end: float | None = None
    """Momentum m at the end, on a cosine from `key_momentum`, step by step; 1 in MoCo v3 and DINO. None: constant."""
    queue_size: int | None = None
    """Keys in the RGB queue and in the motion queue. None: the paper's 65536 for 200k videos or more, else the
    paper's share for UCF101 (2240 of 9537 videos) of the training videos."""
    cell_queue_size: int | None = None
    """Cells in the dense queue. None: the paper's 31360 for 200k videos or more, else 0 (no dense queue)."""
    instance_weight: float = 1.0
    """Weight of the instance loss; 0 switches it off."""
    frame_weight: float = 1.0
    """Weight of the frame-level motion loss; 0 switches it off."""
    cell_weight: float = 1.0
    """Weight of the pixel-level (cell) motion loss; 0 switches it off."""
    decoder: bool = True
    """The cross-attention motion decoder; without it the query's own cells and slices predict the motion."""
    foreground: bool = True
    """Foreground sampling; without it every cell counts as foreground."""
    local_stride: int = 1
    """Encode every n-th frame of the early and late differences; 2 halves their cost."""
    pos_ratio: float = 0.7
    """Cells closer than this share of the larger cell diagonal are positives."""
    exclude_same_video: bool = False
    """Keys of the query's own video are not negatives, except its positives'; for long recordings."""
    options: tuple[str, ...] = ()
    """Settings of a method of another package, each as NAME=VALUE: arguments of its constructor (docs/extend.md)."""

    def __post_init__(self) -> None:
        for name in ("temperature", "cell_temperature", "pos_ratio"):
            require(getattr(self, name) > 0, f"method.{name}", getattr(self, name), "must be greater than 0")
        for name, momentum in (("key_momentum", self.key_momentum), ("key_momentum_end", self.key_momentum_end)):
            require(momentum is None or 0 <= momentum <= 1, f"method.{name}", momentum, "must be in [0, 1]")
        require_least(self, "method.", instance_weight=0, frame_weight=0, cell_weight=0)
        require_least(self, "method.", local_stride=1, queue_size=1, cell_queue_size=0)
        fima_only = "is for the method `fima`; leave it out"
        require(self.cost == "full" or self.name == "fima", "method.cost", self.cost, fima_only)
        self.option_values()
        motion = 0.0 if self.name == "moco" else self.frame_weight + self.cell_weight
        # A method of another package may have losses of its own.
        is_on = self.instance_weight + motion > 0 or self.name not in ("fima", "moco")
        require(is_on, "method.instance_weight", self.instance_weight, "every loss is off")

    def option_values(self) -> dict[str, Any]:
        """Return the options by name, each read as YAML reads a value. Raises ConfigError where it cannot."""
        values: dict[str, Any] = {}
        for option in self.options:
            name, _, text = option.partition("=")
            require(name.isidentifier() and "=" in option, "method.options", option, "must be NAME=VALUE")
            try:
                values[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise ConfigError(f"--method.options {option}: the value is not valid YAML") from None
            with contextlib.suppress(ValueError, TypeError):  # YAML takes 1e-3 for text
                values[name] = values[name] if isinstance(values[name], bool | int) else float(values[name])
        return values

    @property
    def instance_loss(self) -> bool:
        """Whether the instance loss is part of the run."""
        return self.instance_weight > 0

    @property
    def frame_loss(self) -> bool:
        """Whether the frame-level motion loss is part of the run."""
        return self.name != "moco" and self.frame_weight > 0

    @property
    def cell_loss(self) -> bool:
        """Whether the pixel-level motion loss is part of the run."""
        return self.name != "moco" and self.cell_weight > 0
