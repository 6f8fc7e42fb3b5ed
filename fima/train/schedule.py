"""The learning rate, epoch by epoch."""

import math

from fima.config import OptimConfig


def learning_rate(optim: OptimConfig, epoch: int) -> float:
    """Return the learning rate of one epoch.

    The first `warmup_epochs` rise linearly from `warmup_lr` towards `lr`. Of the n epochs after them, with p done:
    `cosine` is lr * (1 + cos(pi * p / n)) / 2, which would reach 0 one epoch after the last; `step` is
    lr * decay^(number of milestones reached, counted from the first epoch of the run); `constant` is lr.

    Args:
        optim: the settings of the run.
        epoch: counted from 0.
    """
    if epoch < optim.warmup_epochs:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * epoch / optim.warmup_epochs
    if optim.schedule == "step":
        return optim.lr * optim.decay ** sum(epoch >= milestone for milestone in optim.milestones)
    if optim.schedule == "cosine":
        done = (epoch - optim.warmup_epochs) / (optim.epochs - optim.warmup_epochs)
        return optim.lr * 0.5 * (1 + math.cos(math.pi * done))
    return optim.lr
