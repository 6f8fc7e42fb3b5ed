"""The checkpoints of a run, after each epoch and on the way."""

from collections.abc import Sequence
from pathlib import Path

from fima.checkpoints.checkpoint import Progress, save_checkpoint, versions
from fima.errors import CheckpointError
from fima.torch_tools import distributed
from fima.train.failures import finite_state
from fima.train.task import Training


def save(training: Training, progress: Progress) -> bool:
    """Write `last.pt`, and a numbered checkpoint where one is due; return and raise as `write_checkpoint`."""
    config, run = training.task.config, training.run
    is_due = progress.epoch % config.run.checkpoint_epochs == 0 or progress.epoch == config.optim.epochs
    if progress.step and progress.step_in_epoch == 0 and is_due:
        # Before `last.pt`: a run that is killed between the two repeats the epoch, and so writes it again.
        write_checkpoint(training, progress, run.numbered(progress.epoch))
    return save_last(training, progress)


def save_last(training: Training, progress: Progress) -> bool:
    """Write `last.pt`, and keep those before it; otherwise as `write_checkpoint`."""
    run, num_kept = training.run, training.task.config.run.keep_last
    return write_checkpoint(training, progress, run.last, backups=run.before_last(num_kept - 1))


def write_checkpoint(training: Training, progress: Progress, path: Path, *, backups: Sequence[Path] = ()) -> bool:
    """Write one checkpoint, in the first process; where that fails, say so aloud and go on.

    Returns whether it is written; True in the other processes. Raises TrainingError where a weight is not finite.
    """
    if not distributed.is_main():
        return True
    task, log, run = training.task, training.log, training.run
    checkpoint = task.checkpoint(
        progress=progress,
        model=finite_state(task.networks, progress, run),
        optimizer=training.optimizer.state_dict(),
        data=training.data,
        versions=versions(),
    )
    # The records that it counts as done.
    log.flush_to_disk()
    try:
        if path == run.last:
            task.write_beside(run, progress)
        save_checkpoint(path, checkpoint, backups=backups)
    except CheckpointError as error:
        left = run.last_good()
        log.warn(f"CHECKPOINT NOT WRITTEN: {error}; {left}; make room: the next one is tried when it is due")
        return False
    return True
