"""A classifier's scores of whole videos: averaged over clips and crops, every device taking its share of the videos."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fima.checkpoints.classifier import Classifier
from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.errors import DataError
from fima.evaluate.extract import Resources, extract_rows
from fima.evaluate.features import normalised
from fima.evaluate.metrics import top_k_accuracy
from fima.torch_tools import distributed
from fima.torch_tools.modes import in_eval_mode


@dataclass(frozen=True, kw_only=True)
class ClassifierScores:
    """Scores of the videos that can be decoded, in the order of the list; the same on every device."""

    scores: Tensor
    """(V, classes) float64: log-probabilities or logits, averaged over the clips of a video."""
    labels: Tensor
    """(V,) class numbers."""
    paths: list[str]
    """The V files."""
    undecodable: list[SkippedVideo]
    """The other files of the list."""

    def top(self, k: int) -> float:
        """Return the top-k accuracy in percent."""
        return top_k_accuracy(self.scores, self.labels, k)


def test_classifier(
    model: Classifier, videos: VideoList, clips: ClipSettings, resources: Resources, *, log_softmax: bool
) -> ClassifierScores:
    """Score every video of a labelled list, each once, however many devices share the work.

    The model is on the device of the resources; it is put into eval mode for the test, and back. `log_softmax` averages
    log-probabilities over the clips instead of logits.

    Raises:
        DataError: not one video can be decoded.
    """
    places = range(distributed.rank(), len(videos.videos), distributed.world_size())
    index: list[int] = []
    scores = [torch.empty(0, model.fc.out_features, dtype=torch.float64)]
    undecodable: list[SkippedVideo] = []
    with in_eval_mode(model):
        for found in extract_rows(
            [videos.videos[place].path for place in places],
            lambda pixels: clip_scores(model, pixels, log_softmax),
            clips,
            resources,
        ):
            if isinstance(found, SkippedVideo):
                undecodable.append(replace(found, index=places[found.index]))
            else:
                scores.append(found.whole.rows[0])
                index.append(places[found.index])
    index = distributed.gather_objects(index)
    order = torch.tensor(index, dtype=torch.int64).argsort()
    everything = distributed.gather_rows(torch.cat(scores))[order]
    skipped = sorted(distributed.gather_objects(undecodable), key=lambda video: video.index)
    if not index:
        first = skipped[0]
        raise DataError(f"{videos.root}: none of {len(skipped)} videos can be decoded; {first.path}: {first.reason}")
    chosen = [videos.videos[place] for place in sorted(index)]
    return ClassifierScores(
        scores=everything,
        labels=torch.tensor([-1 if video.label is None else video.label for video in chosen]),
        paths=[str(video.path) for video in chosen],
        undecodable=skipped,
    )


def clip_scores(model: Classifier, clips: Tensor, log_softmax: bool) -> Tensor:
    """Return the scores (B, classes), float64, of uint8 clips (B, 3, F, S, S) on the model's device."""
    with torch.inference_mode():
        logits: Tensor = model(normalised(clips.float() / 255))
    return logits.double().log_softmax(dim=1) if log_softmax else logits.double()
