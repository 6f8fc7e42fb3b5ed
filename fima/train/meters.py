"""Counting steps and videos: the means and the speed of an epoch, by set of videos too."""

import dataclasses
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from fima.checkpoints.checkpoint import Progress
from fima.data.epoch_plan import EpochPlan
from fima.torch_tools import distributed
from fima.train.log import RunLog
from fima.train.step import Measured

SUM, VIDEOS, LOSS = "loss_sum/", "videos/", "loss/"
"""Beginnings of the names of what is recorded by set."""
BY_SET = (SUM, VIDEOS)
"""Those that are sums over the videos of a step, not means."""


class EpochMeter:
    """Means and speed of one epoch, at its learning rate, and a line in `metrics.jsonl` every `log_steps` steps.

    A step is whole that has `whole_step` videos, over all processes: the last one of an epoch may have fewer.
    """

    def __init__(self, log: RunLog, *, log_steps: int, lr: float, whole_step: int) -> None:
        self._log = log
        self._log_steps = log_steps
        self._lr = lr
        self._whole_step = whole_step
        self._losses: list[str] = []
        self._last_weight = 1.0
        self._videos, self._wait_seconds = 0, 0.0
        self._mark_seconds = time.perf_counter()
        self._epoch_begin = self._line_begin = self._so_far()

    def step_starts(self) -> None:
        """The batch has arrived: what went by since the last step was waiting for data."""
        now = time.perf_counter()
        self._wait_seconds += now - self._mark_seconds
        self._mark_seconds = now

    def step_ends(self) -> float:
        """The host has nothing to do until the next batch arrives. Returns the seconds since this one did."""
        began, self._mark_seconds = self._mark_seconds, time.perf_counter()
        return self._mark_seconds - began

    def count(self, progress: Progress, measured: Measured, numbers: Mapping[str, float]) -> Progress:
        """Count a step that is done; return the progress after it."""
        num_videos = len(measured.paths) * distributed.world_size()
        self._videos += num_videos
        self._losses = measured.losses
        # In the means of the epoch, every video counts once.
        self._last_weight = min(1.0, num_videos / self._whole_step)
        weights = {name: 1.0 if name.startswith(BY_SET) else self._last_weight for name in measured.averaged}
        progress = dataclasses.replace(
            progress,
            step=progress.step + 1,
            step_in_epoch=progress.step_in_epoch + 1,
            averaged_steps=progress.averaged_steps + 1,
            sums={name: progress.sums.get(name, 0.0) + weight * numbers[name] for name, weight in weights.items()},
        )
        rates = self._rates(self._line_begin)
        self._log.advance(progress.step, {name: numbers[name] for name in self._losses}, rates)
        if progress.step % self._log_steps == 0:
            line = {"lr": self._lr, **with_means(numbers), **rates}
            if num_videos < self._whole_step:
                # No more than the number of embeddings, it would look like a collapse beside that of other steps.
                line.pop("effective_rank", None)
            self._log.record("step", epoch=progress.epoch + 1, step=progress.step, values=line)
            self._line_begin = self._so_far()
        return progress

    def epoch_ends(self, progress: Progress, num_epochs: int) -> Progress:
        """Record means and speed of the epoch, of which every step is done; return the progress before the next."""
        num_steps = progress.averaged_steps
        weight = num_steps - 1 + self._last_weight  # the steps before the last were whole
        means = {
            name: total / (num_steps if name.startswith(BY_SET) else weight) for name, total in progress.sums.items()
        }
        values = {"lr": self._lr, **with_means(means), **self._rates(self._epoch_begin)}
        progress = dataclasses.replace(progress, epoch=progress.epoch + 1, step_in_epoch=0, averaged_steps=0, sums={})
        self._log.epoch(progress, num_epochs, values, self._losses)
        return progress

    def _so_far(self) -> tuple[float, int, float]:
        """Return the time, the videos, and the seconds of waiting for data."""
        return time.perf_counter(), self._videos, self._wait_seconds

    def _rates(self, begin: tuple[float, int, float]) -> dict[str, float]:
        """Return `videos_per_second` and `data_wait_share` since then, and the `seconds`."""
        seconds, videos, wait_seconds = (now - then for now, then in zip(self._so_far(), begin, strict=True))
        seconds = max(seconds, 1e-9)
        rates = {"videos_per_second": videos / seconds, "data_wait_share": wait_seconds / seconds}
        return {"seconds": seconds, **rates}


def sums_by_set(plan: EpochPlan, each: Tensor, index: Tensor) -> dict[str, Tensor]:
    """Return the sum of the losses (B,) of each set over all processes, and their number; `index` (B,) are places."""
    number = torch.bucketize(index, torch.tensor(plan.ends), right=True).to(each.device, non_blocking=True)
    table = each.new_zeros(2, len(plan.ends))
    table.index_add_(1, number, torch.stack([each, torch.ones_like(each)]))
    sums, counts = distributed.all_reduce_sum(table)
    named = zip(plan.names, sums.unbind(), counts.unbind(), strict=True)
    return {key: value for name, total, count in named for key, value in ((SUM + name, total), (VIDEOS + name, count))}


def with_means(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return numbers with the mean loss of each set in place of its sum; without it where the set had no video."""
    found = {}
    for name, value in numbers.items():
        if not name.startswith(SUM):
            found[name] = value
        elif count := numbers[VIDEOS + name.removeprefix(SUM)]:
            found[LOSS + name.removeprefix(SUM)] = value / count
    return found
