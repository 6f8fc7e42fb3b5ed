"""Fine-tuning: a classifier on an encoder, trained on labelled videos; tests between epochs and at the end."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fima.backbones.base import Backbone
from fima.checkpoints.checkpoint import (
    ClassifierCheckpoint,
    LoadedEncoder,
    Progress,
    load_checkpoint,
    load_weights,
)
from fima.checkpoints.classifier import Classifier
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig
from fima.data.augment import apply_colour
from fima.data.datasets import VideoList
from fima.data.decode.limits import DecodeLimits
from fima.data.eval_clips import test_clips
from fima.data.labelled import LabelledBatch, build_labelled_loader
from fima.data.layouts.video_list import counted
from fima.evaluate import measured
from fima.evaluate.cam import foreground_share
from fima.evaluate.classifier_result import ClassifierScores, averages_log_softmax, classifier_result, test_classifier
from fima.evaluate.extract import Resources
from fima.evaluate.protocols import EvaluationConfig, EvaluationResult
from fima.evaluate.report import write_class_report
from fima.library.clip_fit import with_timing_checked
from fima.method.inputs import StepLosses
from fima.torch_tools import distributed
from fima.torch_tools.device import choose_device
from fima.torch_tools.precision import autocast, lay_out, memory_format
from fima.train import finetune_setup as setup
from fima.train.failures import errors_in_one_line
from fima.train.loop import seed_networks, train
from fima.train.resume import Start, as_begun, last_checkpoint
from fima.train.step import Measured, forward_backward
from fima.train.task import Task, Training, TrainingResult


def finetune(
    config: FinetuneConfig,
    *,
    pretrained: Path | None,
    data: Path,
    out: Path,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train a classifier on the encoder of a file (None: random weights), test it, and return how the run ended.

    `data` are labelled videos with a training and a test split. `out` is the folder of the run: new, unless `resume`
    continues it from its last checkpoint. Raises UserError for settings, data, files or a folder that the caller can
    put right; TrainingError where the run had to stop, with its last good checkpoint in place.
    """
    device = choose_device(config.run.device, flag="run.device")
    device = distributed.init_from_environment(device, config.run.timeout_minutes)
    run = RunFolder(out, checkpoints)
    with errors_in_one_line(run):
        setup.check_settings(config)
        run.require(resume=resume)
        config = as_begun(config, run) if resume else config
        encoder = (setup.stand_in(pretrained, run) if resume else None) or setup.find_encoder(pretrained, config)
        lists = setup.find_lists(config, data)
        config = setup.resolve(config, encoder, lists, device)
        start: Start[ClassifierCheckpoint] = Start()
        if resume:
            start = last_checkpoint(config, run, ClassifierCheckpoint, lists.train)
        else:
            lists = dataclasses.replace(lists, train=with_timing_checked(lists.train, config.data))
        if start.saved is not None:
            setup.check_same_task(start.saved, run, encoder, lists)
        task = Finetuning(config, encoder, lists, device)
        if start.saved is not None:
            task.selection, task.facts = start.saved.selection, {"source": start.saved.source}
        return train(task, run, device, start, resume=resume)


class Finetuning(Task[LabelledBatch]):
    """Supervised training of a classifier on an encoder, by resolved settings."""

    config: FinetuneConfig
    networks: Classifier

    def __init__(
        self, config: FinetuneConfig, encoder: LoadedEncoder, lists: setup.LabelledLists, device: torch.device
    ) -> None:
        self.config, self.encoder, self.lists, self.videos = config, encoder, lists, lists.train
        self.facts = {"source": encoder.source}
        seed_networks(config, device)
        classifier = Classifier(cast(Backbone, encoder.encoder), len(lists.train.classes), config.classifier)
        # Of the processes' batch-norm statistics, those of the first one are kept, and tested by all.
        lay_out(classifier.to(device), memory_format(config.run.memory_format, config.run.precision, device))
        self.networks = classifier
        self.loader = build_labelled_loader(
            lists.train,
            config.data,
            batch_size=config.optim.batch_size,
            seed=config.run.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

    def step(self, model: nn.Module, batch: LabelledBatch, device: torch.device) -> Measured:
        """Forward and backward: mean cross-entropy, and the top-1 accuracy in percent."""
        config, num_parts = self.config, self.config.optim.accumulate
        return forward_backward(lambda part, _: forward(model, config, part), model, batch, device, num_parts=num_parts)

    def introduction(self) -> list[str]:
        """Return the classifier, and the videos."""
        config, lists = self.config, self.lists
        what = "linear probing" if config.classifier.freeze else "fine-tuning"
        num_weights = sum(weight.numel() for weight in self.networks.parameters() if weight.requires_grad)
        learnt = self.facts["source"].get("description", self.encoder.description)
        begin = "random weights" if self.encoder.file is None else learnt
        clips, _ = setup.clips_in_words(config, self.encoder)
        return [
            f"{what} · {config.classifier.backbone} · {num_weights:,} weights that learn · from {begin} · {clips}",
            f"{counted(len(lists.train.videos), 'video')} ({lists.train.layout}) · {len(lists.train.classes)} classes "
            f"· {counted(len(self.loader), 'step')} an epoch · {counted(len(lists.test.videos), 'test video')}",
        ]

    def warnings(self) -> list[str]:
        """Return what is odd about the videos, the clips, the tests and the schedule."""
        config, lists = self.config, self.lists
        _, unusual = setup.clips_in_words(config, self.encoder)
        odd = dict.fromkeys([*lists.train.warnings(), *lists.test.warnings()])
        found = [*odd, unusual, setup.narrow_test(config, lists), setup.published_schedule(config)]
        if config.classifier.select == "test":
            found.append("--classifier.select test: the epoch is chosen on the test split, so its figure flatters")
        return [text for text in found if text is not None]

    def checkpoint(self, **state: Any) -> ClassifierCheckpoint:  # noqa: ANN401
        """Return a checkpoint of `fima finetune`."""
        return ClassifierCheckpoint(
            config=self.config,
            classes=self.lists.train.classes,
            source=self.facts["source"],
            selection=self.selection,
            **state,
        )

    def is_finished(self, run: RunFolder, progress: Progress) -> bool:
        """Return whether the result is written."""
        return run.result.exists()

    def measure(self, training: Training, progress: Progress) -> None:
        """Test after the epochs where it is due, and keep `best.pt` where the run chooses its best epoch.

        A run that was ended during the test does it again when it is resumed.
        """
        select, last = self.config.classifier.select, progress.epoch == self.config.optim.epochs
        due = progress.epoch % self.config.test.every_epochs == 0 or last
        if self.selection.tested_epoch == progress.epoch or not due or (last and select == "last"):
            return
        validation = self.lists.validation
        kind, videos = ("test", self.lists.test) if validation is None else ("validation", validation)
        scores = self.score(videos, training.device)
        figures = {"top1": scores.top(1), "top5": scores.top(5)}
        training.log.record(kind, epoch=progress.epoch, step=progress.step, values=figures)
        training.log.say(f"{kind} · top-1 {figures['top1']:.2f} · top-5 {figures['top5']:.2f}")
        tested = self.selection = dataclasses.replace(self.selection, tested_epoch=progress.epoch)
        if select != "last" and (tested.top1 is None or figures["top1"] > tested.top1):
            self.selection = dataclasses.replace(tested, epoch=progress.epoch, top1=figures["top1"])
            # What is chosen must be there at the end: where it cannot be written, the best before it stays chosen.
            if distributed.any_process(not training.write_checkpoint(progress, training.run.best)):
                self.selection = tested

    def finish(self, training: Training, progress: Progress) -> EvaluationResult:
        """Test the weights of the chosen epoch, and write `result.json` and the tables by class."""
        run, log, lists, selection = training.run, training.log, self.lists, self.selection
        epoch = progress.epoch if selection.epoch is None else selection.epoch
        if epoch != progress.epoch:
            distributed.barrier()
            best = load_checkpoint(run.best, ClassifierCheckpoint)
            selection, epoch = best.selection, best.progress.epoch
            load_weights(self.networks, best.model, source=run.best, what="model")
        tests = {"test": lists.test, **lists.counterparts}
        validation = {} if lists.validation is None else {"validation": lists.validation}
        scores = {name: self.score(videos, training.device) for name, videos in tests.items()}
        undecodable = sum(len(found.undecodable) for found in scores.values())
        if undecodable:
            log.warn(f"without {counted(undecodable, 'test video')} that cannot be decoded; see {run.result}")
        result = classifier_result(
            self.config,
            lists={"train": lists.train, **validation, **tests},
            scores=scores,
            foreground=self.foreground(training.device),
            source=self.facts["source"],
            epoch=epoch,
            selected_by=selection.top1,
        )
        if distributed.is_main():
            for name, found in scores.items():
                folder = run.root if name == "test" else run.root / name
                write_class_report(folder, found.scores, found.labels, lists.test.classes)
            log.record("result", epoch=epoch, step=progress.step, values=result.figures)
            log.flush_to_disk()
            # The last of all: a run with this file is finished.
            result.save(run.result)
        return result

    def score(self, videos: VideoList, device: torch.device) -> ClassifierScores:
        """Score every video of a list, as many clips at a time as a device takes in training."""
        optim = self.config.optim
        distributed.broadcast_buffers(self.networks)
        return test_classifier(
            self.networks,
            videos,
            test_clips(self.config),
            self.resources(device, max(1, optim.batch_size // (optim.accumulate * distributed.world_size()))),
            log_softmax=averages_log_softmax(self.config.classifier),
        )

    def foreground(self, device: torch.device) -> measured.Measured:
        """Measure which part of the encoder's activation falls on what moves in the test videos."""
        # The batch norm's statistics for differences are means over batches, so these must not depend on the processes.
        num_videos = self.config.optim.batch_size // (self.config.optim.accumulate * self.config.test.clips)
        batch_size = min(EvaluationConfig().batch_size, max(1, num_videos))
        resources, lists = self.resources(device, batch_size), self.lists
        encoder = self.networks.eval().encoder
        return foreground_share(encoder, lists.test, lists.load_mask, test_clips(self.config), resources)

    def resources(self, device: torch.device, batch_size: int) -> Resources:
        """Return what a test decodes and computes with."""
        data = self.config.data
        return Resources(device=device, batch_size=batch_size, workers=data.workers, limits=DecodeLimits.of(data))


def forward(model: nn.Module, config: FinetuneConfig, batch: LabelledBatch) -> StepLosses:
    """Compute the mean cross-entropy of a batch that is on the device, and its top-1 accuracy over all processes."""
    clips = apply_colour(batch.clips.float().div_(255), batch.draws)
    with autocast(clips.device, config.run.precision):
        logits: Tensor = model(clips)
    hits = (logits.argmax(dim=1) == batch.labels).double()
    top1 = distributed.all_reduce_mean(100 * hits.mean())
    return StepLosses(total=cross_entropy(logits, batch.labels), parts={}, stats={"top1": top1})
