"""The pre-training loop: the same code on a CPU, on one GPU and, under `torchrun`, on several."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fima.checkpoints.checkpoint import Checkpoint, Progress, restore, save_checkpoint, versions
from fima.checkpoints.run_folder import RunFolder
from fima.config import PretrainConfig
from fima.data.chosen_videos import chosen_videos
from fima.data.datasets import VideoList
from fima.data.layouts.video_list import counted
from fima.data.loader import PretrainBatch, build_pretrain_loader
from fima.data.workers.crash_guard import GuardedLoader
from fima.method import build_method
from fima.method.fima import FIMA
from fima.torch_tools import distributed
from fima.torch_tools.determinism import choose_algorithms
from fima.train.health import check_health
from fima.train.log import RunLog
from fima.train.resolve import (
    choose_device,
    claimed_folder,
    data_record,
    find_start,
    warnings_about,
    with_precision,
    with_queue_sizes,
)
from fima.train.resume import first_progress, start_from
from fima.train.running import (
    EpochMeter,
    SaveClock,
    count_videos,
    errors_in_one_line,
    finite_state,
    not_finite,
    numbered_is_due,
    random_state,
    require_saved,
    save_or_warn,
    step_seed,
    stop_requested,
)
from fima.train.schedule import learning_rate
from fima.train.signals import StopRequest
from fima.train.step import Measured, NotFiniteError, forward_backward
from fima.visual.tensorboard import log_pictures


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """How a run ended."""

    progress: Progress
    """How far it came."""
    signal_number: int | None
    """The signal that stopped it; None when it is finished."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the loop works with; all of it stays the same object for the whole run."""

    config: PretrainConfig
    run: RunFolder
    videos: VideoList
    data: dict[str, Any]
    """What checkpoints say of the videos."""
    device: torch.device
    method: FIMA
    model: nn.Module
    """The method, wrapped for several devices where there are several."""
    optimizer: torch.optim.SGD
    loader: GuardedLoader[PretrainBatch]
    log: RunLog
    stop: StopRequest


def pretrain(
    config: PretrainConfig,
    *,
    data: Path,
    out: Path,
    checkpoints: Path | None = None,
    resume: bool = False,
    resume_from: Path | None = None,
    start_epoch: int | None = None,
) -> PretrainResult:
    """Pre-train an encoder.

    Args:
        config: the settings; queue sizes that are None follow from the number of videos.
        data: folder of videos; labels are not used but for the kNN accuracy of the health check.
        out: folder of the run; new, unless `resume`.
        checkpoints: folder of the checkpoints, in place of `checkpoints` in the folder of the run.
        resume: continue from the run's last checkpoint.
        resume_from: begin a new run from a checkpoint of another one, or of the authors' program.
        start_epoch: begin a new run at this epoch of its schedule.

    Raises:
        UserError: settings, data or folder that the caller can put right.
        TrainingError: the run had to stop; its last good checkpoint is in place.
    """
    device = distributed.init_from_environment(choose_device(config.run.device), config.run.timeout_minutes)
    run = RunFolder(out, checkpoints)
    with errors_in_one_line(run):
        videos = chosen_videos(data, config.data, config.data.part)
        num_videos = len(videos.videos)
        config = with_precision(with_queue_sizes(config, num_videos), device)
        saved, source = find_start(config, run, videos, resume=resume)
        if saved is not None and is_finished(config, run, saved.progress):
            if distributed.is_main():
                print(f"{out}: finished already, {counted(saved.progress.epoch, 'epoch')}; nothing to do")
            return PretrainResult(progress=saved.progress, signal_number=None)
        progress = first_progress(config, num_videos, start_epoch or 0) if saved is None else saved.progress
        if saved is None and resume_from is not None:
            saved, source = start_from(resume_from, config, num_videos, epoch=start_epoch), resume_from
            progress = saved.progress
        return train(config, run, videos, device, progress, saved, source)


def train(
    config: PretrainConfig,
    run: RunFolder,
    videos: VideoList,
    device: torch.device,
    progress: Progress,
    saved: Checkpoint | None,
    source: Path,
) -> PretrainResult:
    """Train from a checkpoint, or from random weights, to the last epoch or to a signal.

    Args:
        config: the settings, resolved.
        run: folder of the run.
        videos: what to train on.
        device: where.
        progress: what counts as done.
        saved: weights, queues and momenta to begin with; None for new ones.
        source: the file that `saved` was read from, for the messages.
    """
    torch.manual_seed(config.run.seed)
    choose_algorithms(device, deterministic=config.run.deterministic)
    method = build_method(config.model, config.method).to(device).to(memory_format=torch.channels_last_3d)
    if config.model.compile:
        for network in (method.query_encoder, method.key_encoder):
            network.compile()
    optimizer = torch.optim.SGD(
        [parameter for parameter in method.parameters() if parameter.requires_grad],
        lr=config.optim.lr,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
        fused=True,
    )
    rank, world_size = distributed.rank(), distributed.world_size()
    loader = build_pretrain_loader(
        videos,
        config.data,
        batch_size=config.optim.batch_size,
        seed=config.run.seed,
        rank=rank,
        world_size=world_size,
        frame_views=config.method.frame_loss,
    )
    if saved is not None:
        restore(saved, method, optimizer, source=source)
    model = distributed.data_parallel(method)
    data = data_record(videos)
    num_steps = config.optim.epochs * len(loader)
    with (
        claimed_folder(run, config, data, progress),
        RunLog(run, num_steps=num_steps, first_step=progress.step, enabled=rank == 0) as log,
        StopRequest() as stop,
    ):
        training = Training(
            config=config, run=run, videos=videos, data=data, device=device, method=method, model=model,
            optimizer=optimizer, loader=loader, log=log, stop=stop,
        )  # fmt: skip
        greet(training, progress)
        is_saved = True
        for epoch in range(progress.epoch, config.optim.epochs):
            watch_health(training, progress)
            progress, stopped = train_epoch(training, epoch, progress)
            is_saved = save(training, progress)
            if stopped:
                log.say(f"stopped after step {progress.step}; to continue, repeat the command with --resume")
                return PretrainResult(progress=progress, signal_number=stop.signal_number)
        watch_health(training, progress)
        require_saved(is_saved, run)
        log.say(f"finished: {run.last}")
    return PretrainResult(progress=progress, signal_number=None)


def train_epoch(training: Training, epoch: int, progress: Progress) -> tuple[Progress, bool]:
    """Train one epoch, or the rest of it.

    Returns:
        The progress after it, and whether a signal stopped it before its end.
    """
    config, log = training.config, training.log
    lr = learning_rate(config.optim, epoch)
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    training.method.train()
    training.loader.set_epoch(epoch, start_step=progress.step_in_epoch)
    meter = EpochMeter(log, log_steps=config.run.log_steps, epoch=epoch, lr=lr, progress=progress)
    clock = SaveClock(config.run.checkpoint_minutes)
    waiting: Measured | None = None
    for batch in training.loader:
        meter.step_starts()
        # Dropout is a function of (seed, step, process), so a resumed run draws what the uninterrupted one would have.
        step = progress.step + (waiting is not None)
        torch.manual_seed(step_seed(config.run.seed, step, distributed.rank()))
        training.optimizer.zero_grad(set_to_none=True)
        measured = forward_backward(training.model, config, batch, training.device)
        # Fused optimisers look at this on the device, and leave the weights as they are where it is 1.
        training.optimizer.found_inf = measured.not_finite  # type: ignore[attr-defined]
        training.optimizer.step()
        # One step late, so that a GPU always has the next one to do while the host looks at the last.
        if waiting is not None:
            progress = count(training, meter, waiting, progress)
        waiting = measured
        if stop_requested(training):
            break
        if clock.is_due() and progress.step_in_epoch + 1 < len(training.loader):
            progress, waiting = count(training, meter, waiting, progress), None
            save(training, progress)
    if waiting is not None:
        progress = count(training, meter, waiting, progress)
    if progress.step_in_epoch < len(training.loader):
        return progress, True
    progress = dataclasses.replace(progress, epoch=epoch + 1, step_in_epoch=0, averaged_steps=0, sums={})
    log.epoch(progress.epoch, config.optim.epochs, progress.step, meter.means())
    show_pictures(training, batch, progress)
    return progress, stop_requested(training) and progress.epoch < config.optim.epochs


def count(training: Training, meter: EpochMeter, measured: Measured, progress: Progress) -> Progress:
    """Count a step that is done.

    Raises:
        TrainingError: its loss is not finite, or too large a share of the videos cannot be decoded.
    """
    progress = count_videos(training, progress, measured)
    try:
        values, beside = measured.read()
    except NotFiniteError as error:
        raise not_finite(error, training, progress) from None
    num_videos = len(measured.paths) * distributed.world_size()
    return meter.step_ends(progress, values, num_videos, beside=beside)


def greet(training: Training, progress: Progress) -> None:
    """Say what is about to run, and warn of what looks unwise."""
    config, videos, log = training.config, training.videos, training.log
    for text in warnings_about(config, videos):
        log.warn(text)
    num_weights = sum(weight.numel() for weight in training.method.parameters() if weight.requires_grad)
    log.say(f"{config.method.name} · {config.model.backbone} · {num_weights / 1e6:.1f} M weights that learn")
    log.say(f"{len(videos.videos)} videos ({videos.layout}) · {counted(len(training.loader), 'step')} an epoch")
    log.say(f"{distributed.world_size()} x {training.device.type}, {config.run.precision} · {training.run.root}")
    if progress.step:
        log.say(f"continuing after step {progress.step} (epoch {progress.epoch + 1}/{config.optim.epochs})")


def save(training: Training, progress: Progress) -> bool:
    """Write `last.pt`, and a numbered checkpoint where one is due.

    Returns:
        Whether `last.pt` is written; True in the processes beside the first.

    Raises:
        TrainingError: a weight is not finite; the checkpoints stay as they were.
    """
    if not distributed.is_main():
        return True
    run = training.run
    checkpoint = Checkpoint(
        config=training.config,
        progress=progress,
        model=finite_state(training.method, progress, run),
        optimizer=training.optimizer.state_dict(),
        rng=random_state(training.device),
        data=training.data,
        versions=versions(),
    )
    if numbered_is_due(training.config, progress):
        # Before `last.pt`: a run that is killed between the two repeats the epoch, and so writes it again.
        save_or_warn(training, lambda: save_checkpoint(run.numbered(progress.epoch), checkpoint))
    earlier = run.before_last(training.config.run.keep_last - 1)
    return save_or_warn(training, lambda: save_checkpoint(run.last, checkpoint, backups=earlier))


def health_is_due(config: PretrainConfig, run: RunFolder, progress: Progress) -> bool:
    """Whether the representation is to be measured after these epochs, and is not yet."""
    every, last = config.run.health_epochs, progress.epoch == config.optim.epochs
    if not every or not progress.epoch or progress.step_in_epoch or not (last or progress.epoch % every == 0):
        return False
    return not run.has_record("health", progress.epoch)


def is_finished(config: PretrainConfig, run: RunFolder, progress: Progress) -> bool:
    """Whether nothing is left to do."""
    return progress.epoch >= config.optim.epochs and not health_is_due(config, run, progress)


def show_pictures(training: Training, batch: PretrainBatch, progress: Progress) -> None:
    """Show TensorBoard what the networks make of the epoch's last batch, where it is due."""
    every, last = training.config.run.picture_epochs, progress.epoch == training.config.optim.epochs
    if not distributed.is_main() or not every or not (last or progress.epoch % every == 0):
        return
    try:
        log_pictures(training.run.pictures, training.method, batch, progress.step)
    except OSError as error:
        training.log.warn(f"{training.run.pictures}: no pictures, since they cannot be written ({error.strerror})")


def watch_health(training: Training, progress: Progress) -> None:
    """Measure the representation where it is due, and warn when it has collapsed."""
    if distributed.is_main() and health_is_due(training.config, training.run, progress):
        health = check_health(training.method, training.videos, training.config, training.device)
        if health is None:
            training.log.warn("health not measured: fewer than two videos could be decoded")
        else:
            training.log.health(health, epoch=progress.epoch, step=progress.step)
    distributed.barrier()
