"""The losses of each of several sets of videos, over the steps of all processes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fima.data.epoch_plan import EpochPlan
from fima.torch_tools.distributed import all_reduce_sum

SUM, VIDEOS, LOSS = "loss_sum/", "videos/", "loss/"


def sums_by_set(plan: EpochPlan, each: Tensor, index: Tensor) -> dict[str, Tensor]:
    """Return the sum of the losses of each set's videos in the global batch, and their number.

    Of this process's videos, losses are (B,), and their places in the list (B,), on the CPU.
    """
    number = torch.bucketize(index, torch.tensor(plan.ends), right=True).to(each.device)
    table = each.new_zeros(2, len(plan.ends))
    table.index_add_(1, number, torch.stack([each, torch.ones_like(each)]))
    sums, counts = all_reduce_sum(table)
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
