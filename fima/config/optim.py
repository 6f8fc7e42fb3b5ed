"""The optimiser and its schedule, with the paper's values as defaults."""

from dataclasses import dataclass
from typing import Literal

from fima.config.checks import require


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """SGD and its schedule."""

    epochs: int = 100
    """Passes over the videos."""
    batch_size: int = 64
    """Videos per step, over all devices together."""
    accumulate: int = 1
    """Parts that a device splits its share of a batch into, one after another, to save memory."""
    lr: float = 0.01
    """Learning rate at its highest."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls, epoch by epoch."""
    milestones: tuple[int, ...] = ()
    """Epochs at which `step` multiplies the learning rate by `decay`."""
    decay: float = 0.1
    """Factor of the `step` schedule."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up from `warmup_lr`."""
    warmup_lr: float = 0.0
    """Learning rate at which the warm-up starts."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            require(getattr(self, name) >= 1, f"optim.{name}", getattr(self, name), "must be at least 1")
        for name in ("lr", "momentum", "weight_decay", "warmup_lr", "warmup_epochs"):
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "must be 0 or more")
        require(
            (self.schedule == "step") == bool(self.milestones),
            "optim.milestones",
            self.milestones,
            "goes with --optim.schedule step, which needs at least one",
        )
