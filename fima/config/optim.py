"""The optimiser and its schedule, with the paper's values as defaults."""

import math
from dataclasses import dataclass
from typing import Literal

from fima.config.checks import require, require_least

REFERENCE_BATCH = 256
"""Videos per step for which a learning rate is given that is scaled with the batch, as in MoCo v3 and DINO."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its schedule."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    """Optimiser: SGD, as published; AdamW; LARS, for batches of a thousand or more (timm's, the extra `lars`)."""
    epochs: int = 100
    """Passes over the videos."""
    batch_size: int = 64
    """Videos per step, over all devices together."""
    accumulate: int = 1
    """Parts that a device splits its share of a batch into, one after another, to save memory."""
    lr: float = 0.01
    """Peak learning rate."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """`linear`: multiply `lr` by batch_size / 256; `sqrt`: by its square root."""
    encoder_lr_scale: float = 1.0
    """Learning rate of the encoder, as a multiple of that of the heads."""
    freeze_epochs: int = 0
    """Epochs at the start in which the encoder is frozen: no gradient, and batch norm in eval mode."""
    momentum: float = 0.9
    """Momentum of SGD and LARS; the first β of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay; of SGD on every parameter, as published; of AdamW and LARS not on biases and norms."""
    weight_decay_end: float | None = None
    """Weight decay at the end, on a cosine from `weight_decay`, step by step. None: constant."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Schedule of the learning rate, epoch by epoch."""
    milestones: tuple[int, ...] = ()
    """Epochs at which `step` multiplies the learning rate by `decay`."""
    decay: float = 0.1
    """Factor of the `step` schedule."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up from `warmup_lr`."""
    warmup_lr: float = 0.0
    """Learning rate of the first epoch of the warm-up, not scaled with the batch; 0: `lr` / `warmup_epochs`."""
    ema_decay: float = 0.0
    """Decay of a moving average of the encoder's weights, written to `checkpoints/ema.safetensors`; 0: none."""

    def __post_init__(self) -> None:
        require_least(self, "optim.", epochs=1, batch_size=1, accumulate=1, lr=0, momentum=0, weight_decay=0)
        require_least(self, "optim.", weight_decay_end=0, warmup_lr=0, warmup_epochs=0, freeze_epochs=0)
        scale, rule = self.encoder_lr_scale, "must be greater than 0; --optim.freeze-epochs freezes the encoder"
        require(scale > 0, "optim.encoder_lr_scale", scale, rule)
        require(0 <= self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "must be in [0, 1)")
        if self.name == "adamw":
            require(self.momentum < 1, "optim.momentum", self.momentum, "must be less than 1, as a β of AdamW")
        rule = "goes with --optim.schedule step, which needs at least one"
        require((self.schedule == "step") == bool(self.milestones), "optim.milestones", self.milestones, rule)

    @property
    def peak_lr(self) -> float:
        """The learning rate at its highest, scaled with the batch."""
        share = self.batch_size / REFERENCE_BATCH
        return self.lr * {"none": 1.0, "linear": share, "sqrt": math.sqrt(share)}[self.lr_scaling]
