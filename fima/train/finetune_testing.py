"""What the tests of a fine-tuning run measure with the weights as they are."""

import torch

from fima.checkpoints.classifier import Classifier
from fima.config import FinetuneConfig
from fima.data.datasets import VideoList
from fima.data.decode.limits import DecodeLimits
from fima.data.eval_clips import test_clips
from fima.evaluate.cam import foreground_share
from fima.evaluate.classifier_result import ClassifierScores, averages_log_softmax, test_classifier
from fima.evaluate.extract import Resources
from fima.evaluate.measured import Measured
from fima.evaluate.protocols import EvaluationConfig
from fima.torch_tools import distributed
from fima.train.finetune_setup import LabelledLists


def foreground(classifier: Classifier, config: FinetuneConfig, lists: LabelledLists, device: torch.device) -> Measured:
    """Measure which part of the encoder's activation falls on what moves in the test videos."""
    # The batch norm's statistics for differences are means over batches, so these must not depend on the processes.
    num_videos = config.optim.batch_size // (config.optim.accumulate * config.test.clips)
    classifier.eval()
    return foreground_share(
        classifier.encoder,
        lists.test,
        lists.load_mask,
        test_clips(config),
        _resources(config, device, min(EvaluationConfig().batch_size, max(1, num_videos))),
    )


def score(classifier: Classifier, config: FinetuneConfig, videos: VideoList, device: torch.device) -> ClassifierScores:
    """Score every video of a list with the weights as they are."""
    distributed.broadcast_buffers(classifier)
    return test_classifier(
        classifier,
        videos,
        test_clips(config),
        _resources(config, device, clips_at_a_time(config)),
        log_softmax=averages_log_softmax(config.classifier),
    )


def clips_at_a_time(config: FinetuneConfig) -> int:
    """Clips that a device takes at once in training, and so in a test."""
    optim = config.optim
    return max(1, optim.batch_size // (optim.accumulate * distributed.world_size()))


def _resources(config: FinetuneConfig, device: torch.device, batch_size: int) -> Resources:
    data = config.data
    return Resources(device=device, batch_size=batch_size, workers=data.workers, limits=DecodeLimits.of(data))
