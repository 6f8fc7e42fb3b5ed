"""What a run does when its representation collapses: it is told by its own steps, and by its health checks."""

import dataclasses
from collections.abc import Mapping

from fima.checkpoints.checkpoint import Checkpoint, Progress, load_checkpoint, restore
from fima.config import PretrainConfig
from fima.errors import CollapseError
from fima.torch_tools import distributed
from fima.train.health import looks_collapsed
from fima.train.step import Measured
from fima.train.task import Training

FEWEST_STEPS, MOST_STEPS = 20, 100
LOOK_STEPS = 10
"""The other processes hear of it every so many steps."""
STILL = 1e-3
MOST_ROLLBACKS = 3
ROLLBACK_FACTOR = 0.3
"""Of the learning rate, each time."""
ADVICE = "try a lower --optim.lr, a larger --optim.batch-size or a longer --method.queue-size"


class CollapsedError(Exception):
    """The representation has collapsed, and the run is to go back from its progress, for a reason in words."""

    def __init__(self, progress: Progress, reason: str) -> None:
        super().__init__(reason)
        self.progress, self.reason = progress, reason


def patience(steps_an_epoch: int) -> int:
    """Return how many steps in a row must look collapsed: those of an epoch, but 20 to 100."""
    return max(FEWEST_STEPS, min(MOST_STEPS, steps_an_epoch))


def counted_collapse(
    progress: Progress, measured: Measured, numbers: Mapping[str, float], warmup_epochs: int
) -> Progress:
    """Count the step as one more in a row that looks collapsed, or begin to count anew, as in the warm-up.

    It looks collapsed where its embeddings do (`looks_collapsed`), or where the loss is at its floor: within 0.1 % of
    the last step's, whatever the videos.
    """
    loss, last = numbers["loss"], progress.last_loss
    is_still = last is not None and abs(loss - last) <= STILL * abs(last)
    rows, size = measured.query_shape
    is_flat = rows > 0 and looks_collapsed(rows, numbers["effective_rank"], numbers["embedding_std"], size)
    is_counted = (is_flat or is_still) and progress.epoch >= warmup_epochs
    steps = progress.collapsed_steps + 1 if is_counted else 0
    return dataclasses.replace(progress, last_loss=loss, collapsed_steps=steps)


def watch(training: Training, progress: Progress, numbers: Mapping[str, float]) -> None:
    """Act where so many steps in a row looked collapsed to the first process; a classifier is not watched.

    Raises CollapseError where the run is to stop then, CollapsedError where it is to go back.
    """
    needed, config = patience(len(training.task.loader)), training.task.config
    if progress.step % LOOK_STEPS or not isinstance(config, PretrainConfig):
        return
    # The first process decides, whose count is in the checkpoints.
    is_due = distributed.is_main() and needed <= progress.collapsed_steps < needed + LOOK_STEPS
    if distributed.any_process(is_due):
        names = ("loss", "effective_rank", "embedding_std")
        found = ", ".join(f"{name.replace('_', ' ')} {numbers[name]:.3g}" for name in names if name in numbers)
        when = f"in epoch {progress.epoch + 1}, step {progress.step}"
        respond(training, progress, when, f"{needed} steps in a row; {found}")


def respond(training: Training, progress: Progress, when: str, seen: str) -> None:
    """Record what was seen of a collapse, and when, and do what `run.on_collapse` says; in all processes.

    Raises CollapseError where the run is to stop or has gone back often enough, CollapsedError where it is to go back.
    """
    run, log, action = training.run, training.log, training.task.config.run.on_collapse
    reason = f"THE REPRESENTATION HAS COLLAPSED {when}: its embeddings hardly depend on the video ({seen})"
    may_go_back = action == "rollback" and progress.rollbacks < MOST_ROLLBACKS
    # The first process looks: a disk of the network may not show the file to all of them at once.
    if may_go_back and distributed.any_process(distributed.is_main() and run.healthy.exists()):
        raise CollapsedError(progress, reason)
    values = {"on_collapse": action, "reason": reason, "rollbacks": progress.rollbacks}
    epoch = progress.epoch + (progress.step_in_epoch > 0)
    log.record("collapse", epoch=epoch, step=progress.step, values=values)
    if action == "warn":
        log.warn(f"{reason}; further training is likely wasted: {ADVICE}")
        return
    log.flush_to_disk()
    back = f" after going back {progress.rollbacks} times" if progress.rollbacks else ""
    left = f"the last healthy checkpoint is {run.healthy}" if run.healthy.exists() else run.last_good()
    raise CollapseError(f"{reason}; stopped{back}, --run.on-collapse {action}; {left}; {ADVICE}")


def roll_back(training: Training, collapse: CollapsedError) -> Progress:
    """Go back to the last healthy checkpoint, drop the records since, and count that: it lowers the learning rate."""
    run, log, task = training.run, training.log, training.task
    saved = load_checkpoint(run.healthy, Checkpoint)
    restore(saved, task.networks, training.optimizer, source=run.healthy)
    task.restore_average(saved)
    rollbacks = collapse.progress.rollbacks + 1
    progress = dataclasses.replace(saved.progress, rollbacks=rollbacks, collapsed_steps=0)
    distributed.barrier()
    if distributed.is_main():
        log.go_back(progress.step)
    distributed.barrier()
    factor = ROLLBACK_FACTOR**rollbacks
    values = {
        "from_epoch": collapse.progress.epoch,
        "from_step": collapse.progress.step,
        "rollbacks": rollbacks,
        "lr_factor": factor,
        "reason": collapse.reason,
    }
    log.record("rollback", epoch=progress.epoch, step=progress.step, values=values)
    log.warn(
        f"{collapse.reason}; GOING BACK to epoch {progress.epoch} ({run.healthy}) with {factor:.3g} times the learning "
        f"rate, {rollbacks} of {MOST_ROLLBACKS}"
    )
    training.write_checkpoint(progress, run.last)
    return progress
