"""Motion program regression: an encoder learns what rendered people do from the parameters they were rendered with."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.backbones.small import Small
from fima.data.augment import MEAN, STD
from fima.errors import TrainingError
from fima.method.heads import GRID_PARTS, grid_pooled
from fima.synthetic.people.bank import Bank
from fima.synthetic.people.draws import Draws
from fima.synthetic.people.programs import PARAMETERS
from fima.torch_tools.device import choose_algorithms
from fima.torch_tools.precision import autocast, without_autocast
from fima.train.encoder_settings import SyntheticEncoderSettings
from fima.train.resolve import computes_in_bfloat16

HIDDEN = 256
MOST_DEVIATIONS = 4.0
"""Targets beyond are taken for this many standard deviations."""
BETAS = (0.9, 0.99)
WARM_UP_SHARE = 0.05
TRAINING = 1
"""Second number of the key of these draws; rendering has another."""


class MotionRegressor(nn.Module):
    """An encoder and a head that tells the 88 motion parameters of a clip."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1, 1))
        self.encoder = Small()
        self.head = nn.Sequential(
            nn.Linear(self.encoder.num_features * GRID_PARTS, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, len(PARAMETERS)),
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Standardised motion parameters (B, 88) of clips (B, 3, T, H, W) in 0..1."""
        features = self.encoder((clips - self.mean) / self.std)
        with without_autocast(clips.device):
            parameters: Tensor = self.head(grid_pooled(features))
        return parameters


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One pass over the videos."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean over its steps."""
    seconds: float
    """Since the training began."""


def regression_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean over (B, 88) of l(predicted - target), l(d) = d²/2 for |d| < 1, else |d| - 1/2; targets within ±4."""
    return functional.smooth_l1_loss(predicted, targets.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS))


def rate(step: int, num_steps: int) -> float:
    """Share of the highest learning rate in a step: a linear rise over the first 5 %, under a cosine over all."""
    rising = min(1.0, (step + 1) / max(1.0, WARM_UP_SHARE * num_steps))
    return rising * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train_on_people(
    bank: Bank, settings: SyntheticEncoderSettings, *, report: Callable[[EpochRecord], None]
) -> tuple[Small, list[EpochRecord]]:
    """Train `small` on rendered videos by motion program regression; return it in eval mode, and all epochs.

    Training runs on the device of the videos, in bfloat16 where that computes in it. `report` is given
    each epoch as soon as it is done. Raises TrainingError where the loss is not finite.
    """
    device = bank.frames.device
    choose_algorithms(device, deterministic=False)
    torch.manual_seed(settings.seed)
    network = MotionRegressor().to(device).train()
    optimizer = _optimizer(network, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, settings.num_steps))
    precision: Literal["bf16", "fp32"] = "bf16" if computes_in_bfloat16(device) else "fp32"
    order = torch.Generator().manual_seed(settings.seed)
    steps_per_epoch = settings.num_steps // settings.epochs
    records, step, begun = [], 0, time.monotonic()
    for epoch in range(1, settings.epochs + 1):
        total = torch.zeros((), device=device)
        shuffled = torch.randperm(len(bank), generator=order).to(device)
        for first in range(0, steps_per_epoch * settings.batch_size, settings.batch_size):
            index = shuffled[first : first + settings.batch_size]
            draws = Draws.of(settings.seed, TRAINING, step, num_videos=len(index), device=device)
            clips = bank.clips(index, draws, frames=settings.frames, crop_size=settings.crop_size)
            with autocast(device, precision):
                predicted = network(clips)
            loss = regression_loss(predicted, bank.targets[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.detach()
            step += 1
        mean = total.item() / steps_per_epoch
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is {mean} in epoch {epoch}; choose a lower --lr than {settings.lr}")
        records.append(EpochRecord(epoch=epoch, loss=mean, seconds=time.monotonic() - begun))
        report(records[-1])
    return network.encoder.eval(), records


def _optimizer(network: nn.Module, settings: SyntheticEncoderSettings) -> torch.optim.AdamW:
    """AdamW, without decay of what belongs to a norm or is a bias."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS, fused=True)
