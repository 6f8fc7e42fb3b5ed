"""The fine-tuning loop: the same code on a CPU, on one GPU and, under `torchrun`, on several."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from fima.checkpoints.checkpoint import Progress, restore
from fima.checkpoints.classifier import Classifier
from fima.checkpoints.classifier_checkpoint import (
    ClassifierCheckpoint,
    Selection,
)
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig
from fima.data.labelled import build_labelled_loader
from fima.data.layouts.video_list import counted
from fima.evaluate.protocols import EvaluationResult
from fima.torch_tools import distributed
from fima.torch_tools.determinism import choose_algorithms
from fima.train.classifier_step import forward_backward
from fima.train.finetune_save import Finetuning, save
from fima.train.finetune_setup import (
    LabelledLists,
    Start,
    check_settings,
    clips_in_words,
    find_encoder,
    find_lists,
    find_saved,
    narrow_test,
    resolve,
)
from fima.train.finetune_testing import final_test, test_on_the_way
from fima.train.log import RunLog
from fima.train.resolve import choose_device, claimed_folder, data_record
from fima.train.running import (
    EpochMeter,
    SaveClock,
    count_videos,
    errors_in_one_line,
    not_finite,
    require_saved,
    step_seed,
    stop_requested,
)
from fima.train.schedule import learning_rate
from fima.train.signals import StopRequest
from fima.train.step import NotFiniteError


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
    device = distributed.init_from_environment(choose_device(config.run.device), config.run.timeout_minutes)
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
        saved, path = find_saved(config, run, start, lists, resume=resume)
        if saved is None or saved.progress.epoch < config.optim.epochs or not run.result.exists():
            return train(config, run, start, lists, device, saved, path)
        if distributed.is_main():
            print(f"{out}: finished already, {counted(saved.progress.epoch, 'epoch')}; its figures are in {run.result}")
        return FinetuneResult(progress=saved.progress, signal_number=None, result=None)


def train(
    config: FinetuneConfig,
    run: RunFolder,
    start: Start,
    lists: LabelledLists,
    device: torch.device,
    saved: ClassifierCheckpoint | None,
    path: Path,
) -> FinetuneResult:
    """Train from a checkpoint, or from the encoder's weights, to the last epoch or to a signal; then test.

    Args:
        config: the settings, resolved.
        run: folder of the run.
        start: the encoder.
        lists: what to train and to test on.
        device: where.
        saved: the run so far; None at its beginning.
        path: the file that `saved` was read from, for the messages.
    """
    torch.manual_seed(config.run.seed)
    choose_algorithms(device, deterministic=config.run.deterministic)
    classifier = build_classifier(config, start, len(lists.train.classes)).to(device)
    optimizer = build_optimizer(config, classifier)
    rank, world_size = distributed.rank(), distributed.world_size()
    share = {"seed": config.run.seed, "rank": rank, "world_size": world_size}
    loader = build_labelled_loader(lists.train, config.data, batch_size=config.optim.batch_size, **share)
    progress, selection = Progress(), Selection()
    if saved is not None:
        progress, selection = saved.progress, saved.selection
        restore(saved, classifier, optimizer, source=path)
    # Of the processes' batch-norm statistics, those of the first one are kept, and tested by all.
    model = distributed.data_parallel(classifier)
    data, num_steps = data_record(lists.train), config.optim.epochs * len(loader)
    tested, record = selection.tested_epoch, {"source": start.source}
    with (
        claimed_folder(run, config, data, progress, tested_epoch=tested, record=record),
        RunLog(run, num_steps=num_steps, first_step=progress.step, enabled=rank == 0) as log,
        StopRequest() as stop,
    ):
        training = Finetuning(
            config=config, run=run, lists=lists, data=data, source=start.source, device=device, classifier=classifier,
            model=model, optimizer=optimizer, loader=loader, log=log, stop=stop,
        )  # fmt: skip
        greet(training, start, progress)
        is_saved = True
        for epoch in range(progress.epoch, config.optim.epochs):
            selection = test_on_the_way(training, progress, selection)
            progress, stopped = train_epoch(training, epoch, progress, selection)
            is_saved = save(training, progress, selection)
            if stopped:
                log.say(f"stopped after step {progress.step}; to continue, repeat the command with --resume")
                return FinetuneResult(progress=progress, signal_number=stop.signal_number, result=None)
        selection = test_on_the_way(training, progress, selection)
        require_saved(is_saved, run)
        result = final_test(training, progress, selection)
        log.say(f"finished: {run.result}")
    return FinetuneResult(progress=progress, signal_number=None, result=result if rank == 0 else None)


def build_classifier(config: FinetuneConfig, start: Start, num_classes: int) -> Classifier:
    """The classifier on the encoder, on the CPU; the seed of PyTorch decides its first weights."""
    head = config.classifier
    classifier = Classifier(start.encoder, num_classes, head.dropout, head.l2_normalise, freeze=head.freeze)
    return classifier.to(memory_format=torch.channels_last_3d)


def build_optimizer(config: FinetuneConfig, classifier: Classifier) -> torch.optim.SGD:
    """SGD over the weights that learn."""
    return torch.optim.SGD(
        [parameter for parameter in classifier.parameters() if parameter.requires_grad],
        lr=config.optim.lr,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
    )


def train_epoch(training: Finetuning, epoch: int, progress: Progress, selection: Selection) -> tuple[Progress, bool]:
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
    meter = EpochMeter(training.log, log_steps=config.run.log_steps, epoch=epoch, lr=lr, progress=progress)
    clock = SaveClock(config.run.checkpoint_minutes)
    for batch in training.loader:
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
        num_videos = len(batch.paths) * distributed.world_size()
        progress = meter.step_ends(progress, values, num_videos, beside={})
        if stop_requested(training):
            break
        if clock.is_due() and progress.step_in_epoch < len(training.loader):
            save(training, progress, selection)
    if progress.step_in_epoch < len(training.loader):
        return progress, True
    progress = dataclasses.replace(progress, epoch=epoch + 1, step_in_epoch=0, averaged_steps=0, sums={})
    training.log.epoch(progress.epoch, config.optim.epochs, progress.step, meter.means())
    return progress, progress.epoch < config.optim.epochs and stop_requested(training)


def greet(training: Finetuning, start: Start, progress: Progress) -> None:
    """Say what is about to run, and warn of what looks unwise."""
    config, lists, log = training.config, training.lists, training.log
    clips, unusual = clips_in_words(config, start)
    odd = dict.fromkeys([*lists.train.warnings(), *lists.test.warnings()])
    for text in (*odd, unusual, narrow_test(config, lists)):
        if text is not None:
            log.warn(text)
    if config.classifier.select == "test":
        log.warn("--classifier.select test: the epoch is chosen on the test split, so its figure flatters")
    optim = config.optim
    if optim.schedule == "step" and min(optim.milestones) >= optim.epochs:
        within = counted(optim.epochs, "epoch")
        log.warn(f"--optim.milestones {optim.milestones}: none within {within}, so the rate never falls")
    what = "linear probing" if config.classifier.freeze else "fine-tuning"
    num_weights = sum(weight.numel() for weight in training.classifier.parameters() if weight.requires_grad)
    begin = training.source.get("description", "random weights")
    log.say(f"{what} · {config.classifier.backbone} · {num_weights:,} weights that learn · from {begin} · {clips}")
    log.say(
        f"{counted(len(lists.train.videos), 'video')} ({lists.train.layout}) · {len(lists.train.classes)} classes · "
        f"{counted(len(training.loader), 'step')} an epoch · {counted(len(lists.test.videos), 'test video')}"
    )
    log.say(f"{distributed.world_size()} x {training.device.type}, {config.run.precision} · {training.run.root}")
    if progress.step:
        log.say(f"continuing after step {progress.step} (epoch {progress.epoch + 1}/{config.optim.epochs})")
