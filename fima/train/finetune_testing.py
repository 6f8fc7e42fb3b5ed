"""The tests of a fine-tuning run: on the way, where they may choose the epoch, and at its end."""

import dataclasses
from collections.abc import Mapping

from fima.checkpoints.checkpoint import Progress, load_weights
from fima.checkpoints.classifier_checkpoint import Selection, load_classifier_checkpoint
from fima.data.datasets import VideoList
from fima.data.decode.limits import DecodeLimits
from fima.data.eval_clips import test_clips
from fima.evaluate.classifier_result import averages_log_softmax, classifier_result
from fima.evaluate.classifier_scores import ClassifierScores, test_classifier
from fima.evaluate.extract import Resources
from fima.evaluate.feature_protocols import Measured
from fima.evaluate.protocols import EvaluationConfig, EvaluationResult
from fima.evaluate.report import write_class_report
from fima.evaluate.video_protocols import measure_foreground
from fima.torch_tools import distributed
from fima.train.finetune_save import Finetuning, write


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
    run, lists = training.run, training.lists
    epoch = progress.epoch if selection.epoch is None else selection.epoch
    if epoch != progress.epoch:
        distributed.barrier()
        best = load_classifier_checkpoint(run.best)
        selection, epoch = best.selection, best.progress.epoch
        load_weights(training.classifier, best.model, source=run.best, what="model")
    tests = {"test": lists.test, **lists.counterparts}
    scores = {name: score(training, videos) for name, videos in tests.items()}
    undecodable = sum(len(found.undecodable) for found in scores.values())
    if undecodable:
        training.log.warn(f"{undecodable} test videos cannot be decoded and do not count; see {run.result}")
    result = classifier_result(
        training.config,
        train=lists.train,
        tests=tests,
        validation=lists.validation,
        scores=scores,
        foreground=foreground(training),
        source=training.source,
        epoch=epoch,
        selected_by=selection.top1,
    )
    if distributed.is_main():
        write_class_reports(training, scores)
        training.log.record("result", epoch=epoch, step=progress.step, values=result.figures)
        training.log.flush_to_disk()
        # The last of all: a run with this file is finished.
        result.save(run.result)
    return result


def write_class_reports(training: Finetuning, scores: Mapping[str, ClassifierScores]) -> None:
    """Write the tables by class: of the test split into the run's folder, of its counterparts into folders below."""
    for name, found in scores.items():
        folder = training.run.root if name == "test" else training.run.root / name
        write_class_report(folder, found.scores, found.labels, training.lists.test.classes)


def foreground(training: Finetuning) -> Measured:
    """Measure which part of the encoder's activation falls on what moves in the test videos."""
    config = training.config
    # The batch norm's statistics for differences are means over batches, so these must not depend on the processes.
    num_videos = config.optim.batch_size // (config.optim.accumulate * config.test.clips)
    training.classifier.eval()
    return measure_foreground(
        training.classifier.encoder,
        dataclasses.replace(test_clips(config), num_crops=1),
        training.lists.test,
        training.lists.load_mask,
        _resources(training, min(EvaluationConfig().batch_size, max(1, num_videos))),
    )


def score(training: Finetuning, videos: VideoList) -> ClassifierScores:
    """Score every video of a list with the weights as they are."""
    config = training.config
    distributed.broadcast_buffers(training.classifier)
    return test_classifier(
        training.classifier,
        videos,
        test_clips(config),
        _resources(training, clips_at_a_time(training)),
        log_softmax=averages_log_softmax(config.classifier),
    )


def _resources(training: Finetuning, batch_size: int) -> Resources:
    data = training.config.data
    return Resources(device=training.device, batch_size=batch_size, workers=data.workers, limits=DecodeLimits.of(data))


def clips_at_a_time(training: Finetuning) -> int:
    """Clips that a device takes at once in training, and so in a test."""
    optim = training.config.optim
    return max(1, optim.batch_size // (optim.accumulate * distributed.world_size()))
