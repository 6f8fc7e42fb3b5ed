"""Motion program regression: an encoder learns what rendered people do from the parameters they were rendered with."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.backbones.small import Small
from fima.checkpoints.torch_file import read_content, write_content
from fima.config.checks import as_flag
from fima.data.augment import MEAN, STD
from fima.errors import CheckpointError, ConfigError, TrainingError
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
FORMAT = "fima-motion-regression-1"
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
    """Of training, from the first epoch on."""


def regression_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean over (B, 88) of l(predicted - target), l(d) = d²/2 for |d| < 1, else |d| - 1/2; targets within ±4."""
    return functional.smooth_l1_loss(predicted, targets.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS))


def rate(step: int, num_steps: int) -> float:
    """Share of the highest learning rate in a step: a linear rise over the first 5 %, under a cosine over all."""
    rising = min(1.0, (step + 1) / max(1.0, WARM_UP_SHARE * num_steps))
    return rising * 0.5 * (1 + math.cos(math.pi * step / num_steps))


@dataclass(kw_only=True)
class Regression:
    """A training of `small` by motion program regression, and how far it has come."""

    settings: SyntheticEncoderSettings
    network: MotionRegressor
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    """Of the order of the videos in the next epochs."""
    records: list[EpochRecord]
    """The epochs that are done."""

    @classmethod
    def begin(cls, settings: SyntheticEncoderSettings, device: torch.device) -> "Regression":
        """A training that has not begun, whose weights follow from the seed."""
        choose_algorithms(device, deterministic=False)
        torch.manual_seed(settings.seed)
        network = MotionRegressor().to(device)
        order = torch.Generator().manual_seed(settings.seed)
        return cls(settings=settings, network=network, optimizer=_optimizer(network, settings), order=order, records=[])

    @classmethod
    def read(cls, path: Path, settings: SyntheticEncoderSettings, device: torch.device) -> "Regression":
        """The training that `write` has left in a file; it goes on as if nothing had happened.

        Raises CheckpointError where the file cannot be read, ConfigError where it was trained with other settings.
        """
        try:
            content = read_content(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or remove it, and start again") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CheckpointError(f"{path}: not of `fima make-encoder`; remove it, or choose another --out")
        # CPUs and GPUs draw different videos.
        now = {**settings.of_result(), "device": device.type}
        for name, before in content["settings"].items():
            if now[name] != before:
                raise ConfigError(f"{as_flag(name)} {now[name]}: the training in {path} has {before}; give that")
        found = cls.begin(settings, device)
        found.network.load_state_dict(content["network"])
        found.optimizer.load_state_dict(content["optimizer"])
        found.order.set_state(content["order"])
        found.records += [EpochRecord(**record) for record in content["epochs"]]
        return found

    def write(self, path: Path) -> None:
        """Write all that the next epochs depend on, so that `path` holds this or what it held. CheckpointError."""
        content = {
            "format": FORMAT,
            "settings": {**self.settings.of_result(), "device": self.device.type},
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "epochs": [asdict(record) for record in self.records],
        }
        write_content(path, content)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.mean.device

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """What the convolutions compute in: bfloat16 where the device has it."""
        return "bf16" if computes_in_bfloat16(self.device) else "fp32"

    def train_epoch(self, bank: Bank) -> EpochRecord:
        """Train one more epoch on all videos. Raises TrainingError where the loss is not finite."""
        settings, device, done = self.settings, self.device, len(self.records)
        begun = time.monotonic()
        earlier = self.records[-1].seconds if done else 0.0
        total = torch.zeros((), device=device)
        shuffled = torch.randperm(len(bank), generator=self.order).to(device)
        num_steps = settings.num_steps // settings.epochs
        self.network.train()
        for number in range(num_steps):
            step = done * num_steps + number
            index = shuffled[number * settings.batch_size : (number + 1) * settings.batch_size]
            draws = Draws.of(settings.seed, TRAINING, step, num_videos=len(index), device=device)
            clips = bank.clips(index, draws, frames=settings.frames, crop_size=settings.crop_size)
            with autocast(device, self.precision):
                predicted = self.network(clips)
            loss = regression_loss(predicted, bank.targets[index])
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr * rate(step, settings.num_steps)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
        mean = total.item() / num_steps
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is {mean} in epoch {done + 1}; choose a lower --lr than {settings.lr}")
        record = EpochRecord(epoch=done + 1, loss=mean, seconds=earlier + time.monotonic() - begun)
        self.records.append(record)
        return record


def _optimizer(network: nn.Module, settings: SyntheticEncoderSettings) -> torch.optim.AdamW:
    """AdamW, without decay of what belongs to a norm or is a bias."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS, fused=True)
