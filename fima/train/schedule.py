"""The learning rate, epoch by epoch; what follows a cosine, step by step."""

import math

from fima.config import OptimConfig


def learning_rate(optim: OptimConfig, epoch: int) -> float:
    """Return the learning rate of one epoch, counted from 0.

    It is at most lr, the setting scaled with the batch as `lr_scaling` says. The first `warmup_epochs` rise linearly
    from `warmup_lr`, or from lr / warmup_epochs where that is 0, towards it. Of the n epochs after them, with p done:
    `cosine` is lr * (1 + cos(pi * p / n)) / 2, which would reach 0 one epoch after the last; `step` is
    lr * decay^(number of milestones reached, counted from the first epoch of the run); `constant` is lr.
    """
    if epoch < optim.warmup_epochs:
        first = optim.warmup_lr or optim.peak_lr / optim.warmup_epochs  # at 0, nothing would learn for an epoch
        return first + (optim.peak_lr - first) * epoch / optim.warmup_epochs
    if optim.schedule == "step":
        return optim.peak_lr * optim.decay ** sum(epoch >= milestone for milestone in optim.milestones)
    if optim.schedule == "cosine":
        done = (epoch - optim.warmup_epochs) / (optim.epochs - optim.warmup_epochs)
        return optim.peak_lr * 0.5 * (1 + math.cos(math.pi * done))
    return optim.peak_lr


def cosine(start: float, end: float | None, done: float) -> float:
    """Return `end + (start - end) (1 + cos(pi * done)) / 2`, the schedule of MoCo v3 and DINO.

    `done` is the share of the run's steps that are done, in [0, 1]; without an end, the start stays.
    """
    return start if end is None else end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
