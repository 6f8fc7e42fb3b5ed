"""Which samples an epoch has, in which order and in which batches: of which video, part of it, and set.

An item is a part of a video: the whole of it, or one of its `windows` equal parts. Each set gives an epoch so many of
its items, as a stream of shuffled passes over them that goes on from one epoch to the next. With one set, each of whose
items comes once, that is every item in random order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fima.config import DataConfig
from fima.data.clip_overrides import with_clips
from fima.data.clips import Part
from fima.errors import ConfigError

ORDER_STREAM, SAMPLE_STREAM, REPLACEMENT_STREAM, SET_STREAM = 0, 1, 2, 3
Mixing = Literal["proportional", "balanced"]


def item_generator(stream: int, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on the arguments alone; `stream` keeps uses with the same numbers apart."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers, spawn_key=(stream,))))


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The samples of an epoch."""

    windows: npt.NDArray[np.int64]
    """Parts of each video, (V,)."""
    names: tuple[str, ...]
    """Of the sets, whose videos follow one another."""
    ends: tuple[int, ...]
    """For each set, the videos up to its last one."""
    drawn: tuple[int, ...]
    """Samples that each set gives an epoch."""
    timings: tuple[Mapping[str, Any], ...] = ()
    """For each set, its own settings of `data` for the timing of clips; empty where no set has any."""

    @classmethod
    def plain(cls, num_videos: int) -> "EpochPlan":
        """Each video of a single set once."""
        return cls.of_sets([num_videos], [""])

    @classmethod
    def of_sets(cls, sizes: Sequence[int], names: Sequence[str]) -> "EpochPlan":
        """Each video of several sets once; `sizes` are their numbers of videos."""
        ends = tuple(accumulate(sizes))
        return cls(windows=np.ones(ends[-1], dtype=np.int64), names=tuple(names), ends=ends, drawn=tuple(sizes))

    def mixed(self, weights: Sequence[float], mixing: Mixing) -> "EpochPlan":
        """The plan with weights of its sets; ConfigError for one so small that its set gives an epoch no sample.

        `proportional`: each item of a set comes as often as its weight says. `balanced`: an epoch has as many samples
        as there are items, of each set in proportion to its weight alone.
        """
        items = np.add.reduceat(self.windows, [0, *self.ends[:-1]])
        shares = np.asarray(weights, dtype=np.float64)
        shares = shares * items if mixing == "proportional" else shares / shares.sum() * items.sum()
        drawn = tuple(int(number) for number in np.rint(shares))
        for name, number, weight in zip(self.names, drawn, weights, strict=True):
            if not number:
                raise ConfigError(f"{name}:{weight:g}: gives an epoch no sample; give a larger weight, or leave it out")
        return replace(self, drawn=drawn)

    @cached_property
    def sets(self) -> list[range]:
        """The videos of each set."""
        return [range(start, end) for start, end in pairwise((0, *self.ends))]

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return sum(self.drawn)

    def settings(self, data: DataConfig) -> list[DataConfig]:
        """The settings of each set: those of the run, changed by its own. Raises ConfigError."""
        return [with_clips(data, timing) for timing in self.timings] or [data] * len(self.ends)

    def describe(self) -> dict[str, Any]:
        """What records say of it: by set its videos, their windows, its samples of an epoch, and its timing."""
        sets: list[dict[str, Any]] = [
            {
                "name": name,
                "num_videos": len(videos),
                "num_windows": int(self.windows[videos].sum()),
                "num_drawn": drawn,
            }
            for name, videos, drawn in zip(self.names, self.sets, self.drawn, strict=True)
        ]
        for each, timing in zip(sets, self.timings, strict=False):
            each.update({key: list(value) if key == "span" else value for key, value in timing.items()})
        return {"num_samples": self.num_samples, "sets": sets}

    @property
    def is_plain(self) -> bool:
        """Whether each video comes once, as a whole."""
        return len(self.ends) == 1 and self.num_samples == len(self.windows) and int(self.windows.max()) == 1

    def order(self, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """The places of an epoch's samples, (num_samples,), a function of (seed, epoch); none comes twice.

        A place p is the item p mod the number of items; further occurrences of an item have other places.
        """
        chosen = np.concatenate([self._drawn_from(number, seed, epoch) for number in range(len(self.drawn))])
        order: npt.NDArray[np.int64] = chosen[item_generator(ORDER_STREAM, seed, epoch).permutation(len(chosen))]
        return order

    def video_of(self, place: int) -> int:
        """The video that a place stands for."""
        return int(np.searchsorted(self._first_items, place % int(self._first_items[-1]), side="right")) - 1

    def part_of(self, place: int, video: int) -> Part:
        """The part that is taken of a video: that of the place, or, of a video in its stead, some other."""
        item, count = place % int(self._first_items[-1]), int(self.windows[video])
        own = item - int(self._first_items[video])
        return Part(own if 0 <= own < count else item % count, count)

    def set_number(self, video: int) -> int:
        """The set that a video belongs to."""
        return int(np.searchsorted(self.ends, video, side="right"))

    def set_of(self, video: int) -> range:
        """The videos of the set that a video belongs to."""
        return self.sets[self.set_number(video)]

    @cached_property
    def _first_items(self) -> npt.NDArray[np.int64]:
        """The first item of each video, and the number of all items, (V + 1,)."""
        return np.concatenate([[0], np.cumsum(self.windows)])

    def _drawn_from(self, number: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """The places of one set in an epoch, in no particular order: the next ones of its passes."""
        videos = self.sets[number]
        first, last = int(self._first_items[videos.start]), int(self._first_items[videos.stop])
        size, count = last - first, self.drawn[number]
        begin = epoch * count
        places = []
        for turn in range(begin // size, -(-(begin + count) // size)):
            low, high = max(begin - turn * size, 0), min(begin + count - turn * size, size)
            items = np.arange(size)
            if high - low < size:
                items = item_generator(SET_STREAM, seed, number, turn).permutation(size)[low:high]
            places.append(first + items + (turn - begin // size) * int(self._first_items[-1]))
        return np.concatenate(places)


class EpochSampler:
    """Batches of (epoch, place), in an order that is a function of (seed, epoch) alone.

    The last, short batch is kept. With several processes each takes its contiguous part of every global batch, in rank
    order, and the epoch is filled up from its beginning to a multiple of their number; ConfigError for a batch that
    they cannot share equally.
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
