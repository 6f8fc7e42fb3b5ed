"""A labelled folder by which a run chooses its best checkpoint: kNN on frozen features."""

from pathlib import Path

import torch

from fima.config import PretrainConfig
from fima.data.layouts.video_list import VideoList
from fima.errors import DataError
from fima.evaluate.metrics import top_k_accuracy
from fima.evaluate.protocols import SplitLists
from fima.evaluate.retrieval import knn_scores
from fima.evaluate.splits import list_splits
from fima.method.base import Method
from fima.train.health import clip_features


def list_probe(folder: Path) -> SplitLists:
    """List training and test videos of a labelled folder. Raises DataError where there are not two classes in both."""
    try:
        lists = list_splits(folder, [1])[1]
    except DataError as error:
        raise DataError(f"--run.probe {error}") from None
    if len({video.label for video in lists.test.videos} & {video.label for video in lists.train.videos}) < 2:
        rule = f"needs two classes with a training and a test video each; its classes: {', '.join(lists.train.classes)}"
        raise DataError(f"--run.probe {folder}: {rule}")
    return lists


def probe_accuracy(method: Method, lists: SplitLists, config: PretrainConfig, device: torch.device) -> float | None:
    """Return the share of test videos whose class the nearest training videos vote for, as the protocol `knn` does.

    Features are pooled and averaged over two clips, cut as for the health check. None where no training or no test
    video could be decoded.
    """

    def features(videos: VideoList) -> tuple[torch.Tensor, torch.Tensor]:
        found, labels = clip_features(method, videos, config, device)
        return found.mean(dim=1).cpu(), labels.cpu()

    (train, train_labels), (test, test_labels) = features(lists.train), features(lists.test)
    if not len(train) or not len(test):
        return None
    votes = knn_scores(train, train_labels, test, num_classes=len(lists.train.classes))
    return top_k_accuracy(votes, test_labels, 1) / 100
