"""Whether a device computes what the CPU computes: the losses of one step from the same weights and clips."""

import copy
from dataclasses import dataclass

import torch

from fima.benchmark.steps import StepCase, precision_of, random_batch
from fima.train.pretrain import pretrain_step

TOLERANCE = 1e-4
BATCH_SIZE, FRAMES, CROP_PX = 4, 16, 112


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The losses of the first step on two devices."""

    backbone: str
    cpu: dict[str, float]
    """Losses on the CPU, by name, in float32."""
    device: dict[str, float]
    """The same on the other device, without TF32."""

    @property
    def deviation(self) -> float:
        """The largest relative difference of a loss."""
        return max(abs(self.device[name] - value) / max(abs(value), 1e-12) for name, value in self.cpu.items())

    @property
    def holds(self) -> bool:
        """Whether the losses agree to `TOLERANCE`."""
        return self.deviation <= TOLERANCE


def check_parity(backbone: str, device: torch.device) -> Parity:
    """Take a step on the CPU and on a device, from the same weights, clips and draws, and compare the losses."""
    case = StepCase(backbone=backbone, batch_size=BATCH_SIZE, frames=FRAMES, crop_size=CROP_PX)
    config = case.config()
    torch.manual_seed(0)
    method = case.build(torch.device("cpu"))
    batch = random_batch(BATCH_SIZE, config.data)
    other = copy.deepcopy(method).to(device)
    losses = []
    with precision_of("fp32"):
        for networks, where in ((method, torch.device("cpu")), (other, device)):
            values = pretrain_step(networks, config, batch, where).read()
            losses.append({name: value for name, value in values.items() if name in ("loss", *method.weights)})
    return Parity(backbone=backbone, cpu=losses[0], device=losses[1])
