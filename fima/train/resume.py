"""Where a new run begins when it does not begin at epoch 0 with random weights."""

import dataclasses
from pathlib import Path

from fima.checkpoints.checkpoint import Checkpoint, Progress
from fima.checkpoints.official_checkpoint import load_training_checkpoint
from fima.config import PretrainConfig
from fima.errors import ConfigError


def first_progress(config: PretrainConfig, num_videos: int, epoch: int) -> Progress:
    """Return the progress of a run that has `epoch` epochs of `num_videos` videos behind it.

    Raises:
        ConfigError: no epoch would be left.
    """
    if epoch and epoch >= config.optim.epochs:
        raise ConfigError(f"--optim.epochs {config.optim.epochs}: {epoch} are done already; give a larger number")
    return Progress(epoch=epoch, step=epoch * -(-num_videos // config.optim.batch_size))


def start_from(path: Path, config: PretrainConfig, num_videos: int, *, epoch: int | None = None) -> Checkpoint:
    """Return a checkpoint of another run as the beginning of a new one.

    Weights, queues and momenta are the checkpoint's, the settings are the new run's. An epoch that the checkpoint had
    begun is begun again.

    Args:
        path: a checkpoint of `fima pretrain` or of the authors' program.
        config: settings of the new run.
        num_videos: training videos of the new run.
        epoch: epochs that count as done; None takes the checkpoint's.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
        ConfigError: no epoch would be left.
    """
    saved = load_training_checkpoint(path)
    done = saved.progress.epoch if epoch is None else epoch
    own = {"momentum": config.optim.momentum, "weight_decay": config.optim.weight_decay}
    groups = [{**group, **own} for group in saved.optimizer["param_groups"]]
    return dataclasses.replace(
        saved,
        config=config,
        progress=first_progress(config, num_videos, done),
        optimizer={**saved.optimizer, "param_groups": groups},
    )
