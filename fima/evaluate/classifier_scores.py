"""A classifier's scores of whole videos: averaged over clips and crops, every device taking its share of the videos."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fima.checkpoints.classifier import Classifier
from fima.data.augment import MEAN, STD
from fima.data.datasets import VideoList
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.eval_clips import ClipSettings, build_eval_loader
from fima.data.loader import SkippedVideo
from fima.errors import DataError
from fima.evaluate.metrics import top_k_accuracy
from fima.torch_tools import distributed


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
    model: Classifier,
    videos: VideoList,
    settings: ClipSettings,
    *,
    log_softmax: bool,
    device: torch.device,
    batch_size: int,
    workers: int,
    limits: DecodeLimits = USUAL_LIMITS,  # noqa: PT028 (its name looks like a test's)
) -> ClassifierScores:
    """Score every video of a list, each once, however many devices share the work.

    Args:
        model: on `device`; it is put into eval mode for the test, and back.
        videos: labelled videos.
        settings: how clips are cut.
        log_softmax: average log-probabilities over the clips instead of logits.
        device: where the clips are classified.
        batch_size: clips at a time on each device.
        workers: processes that decode; 0 decodes in this one.
        limits: what a video may take.

    Raises:
        DataError: not one video can be decoded.
    """
    loader = build_eval_loader(
        videos,
        settings,
        batch_size=max(1, batch_size // (settings.num_clips * settings.num_crops)),
        workers=workers,
        limits=limits,
        indices=range(distributed.rank(), len(videos.videos), distributed.world_size()),
    )
    index = [torch.empty(0, dtype=torch.int64)]
    scores = [torch.empty(0, model.fc.out_features, dtype=torch.float64)]
    undecodable: list[SkippedVideo] = []
    was_training = model.training
    model.eval()
    try:
        for batch in loader:
            undecodable += batch.skipped
            for place, video_clips in zip(batch.index, batch.clips, strict=True):
                parts = [part.to(device, non_blocking=True) for part in video_clips.split(batch_size)]
                scores.append(torch.cat([clip_scores(model, part, log_softmax) for part in parts]).mean(0, True).cpu())
                index.append(place[None])
    finally:
        model.train(was_training)
    place = distributed.gather_rows(torch.cat(index).to(device)).cpu()
    order = place.argsort()
    everything = distributed.gather_rows(torch.cat(scores).to(device)).cpu()[order]
    skipped = sorted(distributed.gather_objects(undecodable), key=lambda video: video.index)
    if not len(place):
        first = skipped[0]
        raise DataError(f"{videos.root}: none of {len(skipped)} videos can be decoded; {first.path}: {first.reason}")
    chosen = [videos.videos[i] for i in place[order].tolist()]
    return ClassifierScores(
        scores=everything,
        labels=torch.tensor([-1 if video.label is None else video.label for video in chosen]),
        paths=[str(video.path) for video in chosen],
        undecodable=skipped,
    )


def clip_scores(model: Classifier, clips: Tensor, log_softmax: bool) -> Tensor:
    """Return the scores (B, classes), float64, of uint8 clips (B, 3, F, S, S) on the model's device."""
    mean, std = (torch.tensor(values, device=clips.device).view(3, 1, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        logits: Tensor = model((clips.float() / 255 - mean) / std)
    return logits.double().log_softmax(dim=1) if log_softmax else logits.double()
