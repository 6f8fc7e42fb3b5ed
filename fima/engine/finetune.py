"""The fine-tuning loop: the same code on a CPU, on one GPU and, under `torchrun`, on several."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fima.config import FinetuneConfig
from fima.data.datasets import VideoList
from fima.data.labelled import LabelledBatch, build_labelled_loader
from fima.data.loader import TrainLoader
from fima.engine import distributed
from fima.engine.checkpoint import Progress, load_weights, restore, versions
from fima.engine.classifier_checkpoint import (
    ClassifierCheckpoint,
    Selection,
    load_classifier_checkpoint,
    save_classifier_checkpoint,
)
from fima.engine.classifier_step import forward_backward
from fima.engine.finetune_setup import (
    LabelledLists,
    Start,
    check_settings,
    find_encoder,
    find_lists,
    find_saved,
    resolve,
)
from fima.engine.interrupt import StopRequest, spare_processes
from fima.engine.log import RunLog
from fima.engine.run_folder import RunFolder
from fima.engine.running import (
    EpochMeter,
    count_videos,
    errors_in_one_line,
    finite_state,
    not_finite,
    random_state,
    step_seed,
    stop_requested,
)
from fima.engine.schedule import learning_rate
from fima.engine.setup import choose_device, claim_folder
from fima.engine.step import NotFiniteError
from fima.evaluation.classifier import Classifier
from fima.evaluation.classifier_result import averages_log_softmax, classifier_result
from fima.evaluation.protocols import EvaluationResult
from fima.evaluation.report import write_class_report
from fima.evaluation.testing import ClassifierScores, test_classifier


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """How a run ended."""

    progress: Progress
    """How far it came."""
    signal_number: int | None
    """The signal that stopped it; None when it is finished."""
    result: EvaluationResult | None
    """What it measured, as in `result.json`; None where it stopped or had finished before, and in the processes beside
    the first."""


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """What the loop works with; all of it stays the same object for the whole run."""

    config: FinetuneConfig
    run: RunFolder
    lists: LabelledLists
    source: dict[str, Any]
    device: torch.device
    classifier: Classifier
    model: nn.Module
    """The classifier, wrapped for several devices where there are several."""
    optimizer: torch.optim.SGD
    loader: TrainLoader[LabelledBatch]
    log: RunLog
    stop: StopRequest


def finetune(
    config: FinetuneConfig,
    *,
    pretrained: Path | None,
    data: Path,
    out: Path,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> FinetuneResult:
    """Train a classifier on an encoder, and test it.

    Args:
        config: the settings.
        pretrained: file with the encoder; None for random weights.
        data: labelled videos with a training and a test split.
        out: folder of the run; new, unless `resume`.
        checkpoints: folder of its checkpoints, where they lie apart.
        resume: continue from the run's last checkpoint.

    Raises:
        UserError: settings, data, files or folder that the caller can put right.
        TrainingError: the run had to stop; its last good checkpoint is in place.
    """
    device = distributed.init_from_environment(choose_device(config.run.device))
    run = RunFolder(out, checkpoints)
    with errors_in_one_line(run):
        check_settings(config)
        if resume:
            run.require_resumable()
        else:
            run.require_new()
        start = find_encoder(pretrained, config)
        lists = find_lists(config, data)
        config = resolve(config, start, lists, device)
        saved = find_saved(config, run, start, lists, resume=resume)
        if saved is None or saved.progress.epoch < config.optim.epochs or not run.result.exists():
            return train(config, run, start, lists, device, saved)
        if distributed.is_main():
            print(f"{out}: finished already, {saved.progress.epoch} epochs; its figures are in {run.result}")
        return FinetuneResult(progress=saved.progress, signal_number=None, result=None)


def train(
    config: FinetuneConfig,
    run: RunFolder,
    start: Start,
    lists: LabelledLists,
    device: torch.device,
    saved: ClassifierCheckpoint | None,
) -> FinetuneResult:
    """Train from a checkpoint, or from the encoder's weights, to the last epoch or to a signal; then test."""
    torch.manual_seed(config.run.seed)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    head = config.classifier
    classifier = Classifier(
        start.encoder, len(lists.train.classes), head.dropout, head.l2_normalise, freeze=head.freeze
    )
    classifier.to(device).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(
        [parameter for parameter in classifier.parameters() if parameter.requires_grad],
        lr=config.optim.lr,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
    )
    rank, world_size = distributed.rank(), distributed.world_size()
    batch_size, seed = config.optim.batch_size, config.run.seed
    loader = build_labelled_loader(
        lists.train, config.data, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
    )
    progress, selection = Progress(), Selection()
    if saved is not None:
        progress, selection = saved.progress, saved.selection
        restore(saved, classifier, optimizer, source=run.last)
    model: nn.Module = classifier
    if world_size > 1:
        # Batch-norm statistics stay each device's own; those of the first one are kept, and tested by all.
        model = DistributedDataParallel(classifier, broadcast_buffers=False)
    claim_folder(run, config, lists.train, progress, record={"source": start.source})
    num_steps = config.optim.epochs * len(loader)
    with RunLog(run, num_steps=num_steps, first_step=progress.step, enabled=rank == 0) as log, StopRequest() as stop:
        training = Finetuning(
            config=config, run=run, lists=lists, source=start.source, device=device, classifier=classifier,
            model=model, optimizer=optimizer, loader=loader, log=log, stop=stop,
        )  # fmt: skip
        greet(training, progress)
        for epoch in range(progress.epoch, config.optim.epochs):
            selection = test_on_the_way(training, progress, selection)
            progress, stopped = train_epoch(training, epoch, progress)
            save(training, progress, selection)
            if stopped:
                log.say(f"stopped after step {progress.step}; to continue, repeat the command with --resume")
                return FinetuneResult(progress=progress, signal_number=stop.signal_number, result=None)
        selection = test_on_the_way(training, progress, selection)
        result = final_test(training, progress, selection)
        log.say(f"finished: {run.result}")
    return FinetuneResult(progress=progress, signal_number=None, result=result if rank == 0 else None)


def train_epoch(training: Finetuning, epoch: int, progress: Progress) -> tuple[Progress, bool]:
    """Train one epoch, or the rest of it.

    Returns:
        The progress after it, and whether a signal stopped it before its end.
    """
    config, optimizer = training.config, training.optimizer
    lr = learning_rate(config.optim, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    training.classifier.train()
    training.loader.set_epoch(epoch, start_step=progress.step_in_epoch)
    meter = EpochMeter(training.log, log_steps=config.run.log_steps, epoch=epoch, lr=lr)
    for batch in spare_processes(training.loader):
        meter.step_starts()
        progress = count_videos(training, progress, batch)
        # Dropout is a function of (seed, step, process), so a resumed run draws what the uninterrupted one would have.
        torch.manual_seed(step_seed(config.run.seed, progress.step, distributed.rank()))
        optimizer.zero_grad(set_to_none=True)
        try:
            values = forward_backward(training.model, config, batch, training.device)
        except NotFiniteError as error:
            raise not_finite(error, training, progress) from None
        optimizer.step()
        progress = dataclasses.replace(progress, step=progress.step + 1, step_in_epoch=progress.step_in_epoch + 1)
        meter.step_ends(progress.step, values, len(batch.paths) * distributed.world_size())
        if stop_requested(training):
            break
    if progress.step_in_epoch < len(training.loader):
        return progress, True
    progress = dataclasses.replace(progress, epoch=epoch + 1, step_in_epoch=0)
    training.log.epoch(progress.epoch, config.optim.epochs, progress.step, meter.means())
    return progress, progress.epoch < config.optim.epochs and stop_requested(training)


def greet(training: Finetuning, progress: Progress) -> None:
    """Say what is about to run, and warn of what looks unwise."""
    config, lists, log = training.config, training.lists, training.log
    for text in (*lists.train.warnings(), *lists.test.warnings()):
        log.warn(text)
    if config.classifier.select == "test":
        log.warn("--classifier.select test: the epoch is chosen on the test split, so its figure flatters")
    optim = config.optim
    if optim.schedule == "step" and min(optim.milestones) >= optim.epochs:
        log.warn(f"--optim.milestones {optim.milestones}: none within {optim.epochs} epochs, so the rate never falls")
    what = "linear probing" if config.classifier.freeze else "fine-tuning"
    num_weights = sum(weight.numel() for weight in training.classifier.parameters() if weight.requires_grad)
    begin = training.source.get("description", "random weights")
    log.say(f"{what} · {config.classifier.backbone} · {num_weights:,} weights that learn · from {begin}")
    log.say(
        f"{len(lists.train.videos)} videos ({lists.train.layout}) · {len(lists.train.classes)} classes · "
        f"{len(training.loader)} steps an epoch · {len(lists.test.videos)} test videos"
    )
    log.say(f"{distributed.world_size()} x {training.device.type}, {config.run.precision} · {training.run.root}")
    if progress.step:
        log.say(f"continuing after step {progress.step} (epoch {progress.epoch + 1}/{config.optim.epochs})")


def save(training: Finetuning, progress: Progress, selection: Selection) -> None:
    """Write `last.pt`, and a numbered checkpoint where one is due.

    Raises:
        TrainingError: a weight is not finite; the checkpoints stay as they were.
    """
    write(training, training.run.last, progress, selection)
    every, last = training.config.run.checkpoint_epochs, training.config.optim.epochs
    if progress.step_in_epoch == 0 and (progress.epoch % every == 0 or progress.epoch == last):
        write(training, training.run.numbered(progress.epoch), progress, selection)


def write(training: Finetuning, path: Path, progress: Progress, selection: Selection) -> None:
    """Write one checkpoint, in the first process."""
    if distributed.is_main():
        checkpoint = ClassifierCheckpoint(
            config=training.config,
            classes=training.lists.train.classes,
            source=training.source,
            progress=progress,
            selection=selection,
            model=finite_state(training.classifier, progress, training.run),
            optimizer=training.optimizer.state_dict(),
            rng=random_state(training.device),
            data=training.lists.train.describe(),
            versions=versions(),
        )
        save_classifier_checkpoint(path, checkpoint)


def test_on_the_way(training: Finetuning, progress: Progress, selection: Selection) -> Selection:
    """Test after the epochs where it is due, and keep `best.pt` where the run chooses its best epoch.

    A run that was ended during the test does it again when it is resumed.

    Returns:
        The choice so far.
    """
    select, last = training.config.classifier.select, progress.epoch == training.config.optim.epochs
    due = progress.epoch % training.config.test.every_epochs == 0 or last
    if selection.tested_epoch == progress.epoch or not due or (last and select == "last"):
        return selection
    validation = training.lists.validation
    kind, videos = ("test", training.lists.test) if validation is None else ("validation", validation)
    scores = score(training, videos)
    figures = {"top1": scores.top(1), "top5": scores.top(5)}
    training.log.record(kind, epoch=progress.epoch, step=progress.step, values=figures)
    training.log.say(f"{kind} · top-1 {figures['top1']:.2f} · top-5 {figures['top5']:.2f}")
    selection = dataclasses.replace(selection, tested_epoch=progress.epoch)
    if select != "last" and (selection.top1 is None or figures["top1"] > selection.top1):
        selection = dataclasses.replace(selection, epoch=progress.epoch, top1=figures["top1"])
        write(training, training.run.best, progress, selection)
    return selection


def final_test(training: Finetuning, progress: Progress, selection: Selection) -> EvaluationResult:
    """Test the weights of the chosen epoch, and write `result.json` and the tables by class."""
    run, epoch = training.run, progress.epoch if selection.epoch is None else selection.epoch
    if epoch != progress.epoch:
        distributed.barrier()
        best = load_classifier_checkpoint(run.best)
        load_weights(training.classifier, best.model, source=run.best, what="model")
    scores = score(training, training.lists.test)
    if scores.undecodable:
        training.log.warn(f"{len(scores.undecodable)} test videos cannot be decoded and do not count; see {run.result}")
    lists = training.lists
    result = classifier_result(
        training.config,
        train=lists.train,
        test=lists.test,
        validation=lists.validation,
        scores=scores,
        source=training.source,
        epoch=epoch,
        selected_by=selection.top1,
    )
    if distributed.is_main():
        write_class_report(run.root, scores.scores, scores.labels, training.lists.test.classes)
        result.save(run.result)
    training.log.record("result", epoch=epoch, step=progress.step, values=result.figures)
    return result


def score(training: Finetuning, videos: VideoList) -> ClassifierScores:
    """Score every video of a list with the weights as they are."""
    config = training.config
    distributed.broadcast_buffers(training.classifier)
    return test_classifier(
        training.classifier,
        videos,
        frames=config.data.frames,
        crop_size=config.data.crop_size,
        clips=config.test.clips,
        crops=config.test.crops,
        ori_resolution=config.test.ori_resolution,
        log_softmax=averages_log_softmax(config.classifier),
        device=training.device,
        batch_size=max(1, config.optim.batch_size // (config.optim.accumulate * distributed.world_size())),
        workers=config.data.workers,
    )
