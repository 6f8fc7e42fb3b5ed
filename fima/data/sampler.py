"""The batches of an epoch, shared between processes; they can begin at any of its steps."""

from collections.abc import Iterator

import numpy as np

from fima.data.epoch_plan import EpochPlan
from fima.errors import ConfigError


class EpochSampler:
    """Batches of (epoch, place), in an order that is a function of (seed, epoch) alone.

    The last, short batch is kept. With several processes each takes its contiguous part of every global batch, in rank
    order, and the epoch is filled up from its beginning to a multiple of their number.

    Raises:
        ConfigError: the batch, of samples over all processes, cannot be shared equally.
    """

    epoch = 0
    start_step = 0

    def __init__(self, plan: EpochPlan, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size:
            raise ConfigError(f"--optim.batch-size {batch_size}: must be a multiple of the {world_size} processes")
        self.plan = plan
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and the step at which it begins."""
        self.epoch = epoch
        self.start_step = start_step

    def __len__(self) -> int:
        """Steps of a whole epoch, whatever the step it begins at."""
        return -(-self.plan.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.plan.order(self.seed, self.epoch)
        padded = np.resize(order, -(-len(order) // self.world_size) * self.world_size)
        for step in range(self.start_step, len(self)):
            batch = padded[step * self.batch_size : (step + 1) * self.batch_size]
            share = len(batch) // self.world_size
            yield [(self.epoch, int(place)) for place in batch[self.rank * share : (self.rank + 1) * share]]
