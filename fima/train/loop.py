"""The training loop: the same for every task, on a CPU, on one GPU and, under `torchrun`, on several."""

import dataclasses
import time
from typing import Any

import torch

from fima.checkpoints.checkpoint import Progress, restore
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig, PretrainConfig
from fima.data.layouts.video_list import counted
from fima.errors import TrainingError, warn
from fima.torch_tools import distributed
from fima.torch_tools.device import choose_algorithms
from fima.train.collapse import ROLLBACK_FACTOR, CollapsedError, counted_collapse, roll_back, watch
from fima.train.failures import NotFiniteError, check_skipped, require_saved
from fima.train.log import RunLog
from fima.train.meters import EpochMeter
from fima.train.optimizer import build_optimizer, encoders_of, freeze_encoders, in_words, set_rates, warnings_about
from fima.train.resume import Start, claimed_folder, data_record, require_one_run
from fima.train.schedule import learning_rate
from fima.train.signals import StopRequest
from fima.train.step import Measured, step_seed
from fima.train.task import Task, Training, TrainingResult


def seed_networks(config: PretrainConfig | FinetuneConfig, device: torch.device) -> None:
    """Make the first weights of the networks that are built next follow from the run's seed."""
    torch.manual_seed(config.run.seed)
    choose_algorithms(device, deterministic=config.run.deterministic)


def train(task: Task[Any], run: RunFolder, device: torch.device, start: Start[Any], *, resume: bool) -> TrainingResult:
    """Train from a checkpoint, or from the networks as they are, to the last epoch or to a signal.

    Raises UserError where folder or checkpoint are not as they must be; TrainingError where the run had to stop.
    """
    config, progress = task.config, start.progress
    num_epochs = config.optim.epochs
    if progress.epoch >= num_epochs and task.is_finished(run, progress):
        if distributed.is_main():
            left = f"its figures are in {run.result}" if run.result.exists() else "nothing to do"
            print(f"{run.root}: finished already, {counted(progress.epoch, 'epoch')}; {left}")
        return TrainingResult(progress=progress)
    data, num_steps = data_record(task.videos), num_epochs * len(task.loader)
    optimizer = optimizer_at(task, run, start, num_steps)
    require_one_run(config, data)
    with (
        claimed_folder(task, run, data, progress, resume=resume),
        RunLog(run, num_steps=num_steps, first_step=progress.step, enabled=distributed.is_main()) as log,
        StopRequest(config.run.grace_seconds) as stop,
    ):
        training = Training(
            task=task,
            run=run,
            data=data,
            device=device,
            model=distributed.data_parallel(task.networks),
            optimizer=optimizer,
            log=log,
            stop=stop,
        )
        introduce(training, progress)
        is_saved = True
        while True:
            try:
                task.measure(training, progress)
                if progress.epoch >= num_epochs:
                    break
                if freeze_encoders(task.networks, optimizer, frozen=progress.epoch < config.optim.freeze_epochs):
                    training = dataclasses.replace(training, model=distributed.data_parallel(task.networks))
                progress, last_batch = train_epoch(training, progress)
            except CollapsedError as collapse:
                progress = roll_back(training, collapse)
                continue
            is_saved = training.save(progress)
            if progress.epoch < num_epochs and stop_requested(stop):
                log.say(f"stopped after step {progress.step}; to continue, repeat the command with --resume")
                # Not every process may have had the signal, but none may call the run finished.
                number = next(filter(None, distributed.gather_objects([stop.signal_number])))
                return TrainingResult(progress=progress, signal_number=number)
            # After the epoch is saved, which pictures are no reason to lose.
            task.show(training, last_batch, progress)
            del last_batch  # hundreds of megabytes, which the next epoch need not hold
        require_saved(is_saved, run)
        result = task.finish(training, progress)
        log.say(f"finished: {left_by(run, progress) if result is None else run.result}")
    return TrainingResult(progress=progress, result=result if distributed.is_main() else None)


def left_by(run: RunFolder, progress: Progress) -> str:
    """Say which checkpoint a finished run has left, and which one is better by its health checks, where it is another.

    Commands that are given the folder of the run take the first.
    """
    best = run.best_health()
    if best.get("epoch", progress.epoch) == progress.epoch or not run.best.exists():
        return str(run.last)
    judge = "probe" if "probe_accuracy" in best else "kNN"
    found = f"{judge} {best[f'{judge.lower()}_accuracy']:.1%}"
    return f"{run.last}; the best was epoch {best['epoch']} ({found}): to use it, give {run.best}"


def optimizer_at(task: Task[Any], run: RunFolder, start: Start[Any], num_steps: int) -> torch.optim.Optimizer:
    """Return the optimiser where a run begins, after the networks have been given the weights of its checkpoint."""
    config, progress = task.config, start.progress
    optimizer = build_optimizer(task.networks, config.optim)
    if start.saved is not None:
        restore(start.saved, task.networks, optimizer, source=start.file or run.last)
        task.restore_average(start.saved)
    if progress.step:
        # As the uninterrupted run has them here, so that what is saved before the next step is the same.
        last = progress.epoch - (progress.step_in_epoch == 0)
        set_rates(optimizer, config.optim, rate_of(config, last, progress), (progress.step - 1) / num_steps)
    return optimizer


def rate_of(config: PretrainConfig | FinetuneConfig, epoch: int, progress: Progress) -> float:
    """Return the learning rate of an epoch, counted from 0, after as many collapses as there were."""
    return learning_rate(config.optim, epoch) * ROLLBACK_FACTOR**progress.rollbacks


def train_epoch(training: Training, progress: Progress) -> tuple[Progress, Any]:
    """Train one epoch, or the rest of it; less where a signal stops it. Returns the progress, and the last batch."""
    if stop_requested(training.stop):  # as in a test between two epochs
        return progress, None
    task, config = training.task, training.task.config
    lr = rate_of(config, progress.epoch, progress)
    num_steps = config.optim.epochs * len(task.loader)
    task.networks.train()
    if progress.epoch < config.optim.freeze_epochs:
        for encoder in encoders_of(task.networks):
            encoder.eval()
    task.loader.set_epoch(progress.epoch, start_step=progress.step_in_epoch)
    whole_step = min(config.optim.batch_size, task.loader.num_samples)
    meter = EpochMeter(training.log, log_steps=config.run.log_steps, lr=lr, whole_step=whole_step)
    saved_seconds, limit_seconds = time.monotonic(), 60 * config.run.checkpoint_minutes
    waiting: Measured | None = None
    for batch in task.loader:
        meter.step_starts()
        # Dropout is a function of (seed, step, process), so a resumed run draws what the uninterrupted one would have.
        step = progress.step + (waiting is not None)
        torch.manual_seed(step_seed(config.run.seed, step, distributed.rank()))
        set_rates(training.optimizer, config.optim, lr, step / num_steps)
        task.before_step(step / num_steps)
        training.optimizer.zero_grad(set_to_none=True)
        measured = task.step(training.model, batch, training.device)
        training.optimizer.step()
        task.after_step()
        # One step late, so that a GPU always has the next one to do while the host looks at the last. Nothing is saved
        # before every step was looked at, so a loss that is not finite reaches no file.
        if waiting is not None:
            progress = count(training, meter, waiting, progress)
        waiting = measured
        if stop_requested(training.stop):
            break
        # Processes meet when they count a step, so all of them do it here, or none: the first one's clock decides.
        is_due = distributed.is_main() and 0 < limit_seconds <= time.monotonic() - saved_seconds
        is_saved = distributed.any_process(is_due) and progress.step_in_epoch + 1 < len(task.loader)
        # On a CPU a step is done by now: one step late, the epoch's last one would seem to take no time.
        if is_saved or training.device.type == "cpu":
            progress, waiting = count(training, meter, waiting, progress), None
        if is_saved:
            training.save(progress)
            saved_seconds = time.monotonic()
        training.stop.step_seconds = meter.step_ends()
    if waiting is not None:
        progress = count(training, meter, waiting, progress)
    if progress.step_in_epoch == len(task.loader):
        progress = meter.epoch_ends(progress, config.optim.epochs)
    return progress, batch


def count(training: Training, meter: EpochMeter, measured: Measured, progress: Progress) -> Progress:
    """Count a step that is done, and the videos that it was meant to see.

    Raises TrainingError where its loss is not finite or too many videos cannot be decoded; for a collapse as `watch`.
    """
    log, run, step, epoch = training.log, training.run, progress.step + 1, progress.epoch + 1
    skipped = [
        {"path": video.path, "reason": video.reason, "epoch": video.epoch + 1, "step": step}
        for video in measured.skipped
    ]
    log.record_skipped(skipped)
    if skipped and not progress.videos_skipped:
        first = skipped[0]
        warn(f"{first['path']}: {first['reason']}; replaced by another, as are others that {run.skipped} will name")
    progress = dataclasses.replace(
        progress,
        videos_tried=progress.videos_tried + len(measured.paths) + len(skipped),
        videos_skipped=progress.videos_skipped + len(skipped),
    )
    config = training.task.config
    epoch_size = training.task.loader.num_samples / distributed.world_size()
    check_skipped(progress, config.data.max_skipped_share, epoch_size, run)
    try:
        numbers = measured.read()
    except NotFiniteError as error:
        log.record("stopped", epoch=epoch, step=step, values={"videos": measured.paths})
        advice = "try a lower --optim.lr, or --run.precision fp32"
        raise TrainingError(f"step {step} (epoch {epoch}): {error}; {run.last_good()}; {advice}") from None
    progress = meter.count(progress, measured, numbers)
    progress = counted_collapse(progress, measured, numbers, config.optim.warmup_epochs)
    watch(training, progress, numbers)
    return progress


def introduce(training: Training, progress: Progress) -> None:
    """Say what is about to run, and warn of what looks unwise."""
    task, log = training.task, training.log
    optim = task.config.optim
    for text in (*task.warnings(), *warnings_about(optim)):
        log.warn(text)
    for text in (*task.introduction(), in_words(optim)):
        log.say(text)
    log.say(f"{distributed.world_size()} x {training.device.type}, {task.config.run.precision} · {training.run.root}")
    if progress.step:
        log.say(f"continuing after step {progress.step} (epoch {progress.epoch + 1}/{optim.epochs})")


def stop_requested(stop: StopRequest) -> bool:
    """Whether a signal has reached any of the processes, so that all of them stop at the same step."""
    return distributed.any_process(stop.signal_number is not None)
