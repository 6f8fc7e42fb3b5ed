"""Random draws for a batch of videos, a function of a few whole numbers on a given kind of device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """A source of random tensors whose first dimension is the batch."""

    generator: torch.Generator
    """Where the numbers come from; it also names the device."""
    num_videos: int
    """Videos B of the batch."""

    @classmethod
    def of(cls, *key: int, num_videos: int, device: torch.device) -> "Draws":
        """Draws of one batch of B videos, a function of the key: whole numbers such as a seed and that of the batch.

        CPUs and GPUs draw different numbers.
        """
        (word,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(word >> np.uint64(1)))
        return cls(generator=generator, num_videos=num_videos)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Even draws in [low, high), (B, *shape)."""
        drawn = torch.rand(self.num_videos, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def normal(self, scale: float, *shape: int) -> Tensor:
        """Normal draws of mean 0 and this standard deviation, (B, *shape)."""
        return scale * torch.randn(self.num_videos, *shape, generator=self.generator, device=self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """1 with this probability, else 0, float32 (B, *shape)."""
        return (self.uniform(0, 1, *shape) < probability).float()

    def sign(self) -> Tensor:
        """-1 or 1, alike often, (B,)."""
        return 2 * self.chance(0.5) - 1

    def choice(self, weights: Sequence[float]) -> Tensor:
        """Places in a list drawn by weight, int64 (B,)."""
        shares = torch.tensor(weights, dtype=torch.float32, device=self.device)
        return torch.multinomial(shares, self.num_videos, replacement=True, generator=self.generator)
