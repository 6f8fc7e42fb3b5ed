"""The order of the videos in an epoch, and random numbers that depend on where they are used alone."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler

from fima.errors import ConfigError

ORDER_STREAM, SAMPLE_STREAM, REPLACEMENT_STREAM = 0, 1, 2


def item_generator(stream: int, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on the arguments alone; `stream` keeps uses with the same numbers apart."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers, spawn_key=(stream,))))


Item = TypeVar("Item")


class SteppedSampler(Sampler[list[Item]]):
    """Batches of an epoch that can begin at any of its steps."""

    epoch = 0
    start_step = 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and the step at which it begins."""
        self.epoch = epoch
        self.start_step = start_step


class EpochSampler(SteppedSampler[tuple[int, int]]):
    """Batches of (epoch, index), in an order that is a function of (seed, epoch) alone.

    The last, short batch is kept. With several processes each takes its contiguous part of every global batch, in
    rank order, and the epoch is filled up from its beginning to a multiple of their number.

    Args:
        num_videos: videos in the list.
        batch_size: videos per step over all processes.
        seed: seed of the run.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        ConfigError: the batch cannot be shared equally.
    """

    def __init__(self, num_videos: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size:
            raise ConfigError(f"--optim.batch_size {batch_size}: must be a multiple of the {world_size} processes")
        self.num_videos = num_videos
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Steps of a whole epoch, whatever the step it begins at."""
        return -(-self.num_videos // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = item_generator(ORDER_STREAM, self.seed, self.epoch).permutation(self.num_videos)
        padded = np.resize(order, -(-self.num_videos // self.world_size) * self.world_size)
        for step in range(self.start_step, len(self)):
            batch = padded[step * self.batch_size : (step + 1) * self.batch_size]
            share = len(batch) // self.world_size
            yield [(self.epoch, int(index)) for index in batch[self.rank * share : (self.rank + 1) * share]]
