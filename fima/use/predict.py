"""Class probabilities of videos, and of their seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fima.checkpoints.classifier import LoadedClassifier
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.loader import SkippedVideo
from fima.evaluate.classifier_result import averages_log_softmax
from fima.evaluate.classifier_scores import clip_scores
from fima.evaluate.features import ClipSettings
from fima.use.extract import extract_rows


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a video, or a second of it, shows."""

    path: Path
    """The file."""
    seconds: tuple[float, float]
    """From when to when; NaN where the video has no frame rate."""
    probabilities: Tensor
    """(classes,), float64."""


def predict(
    classifier: LoadedClassifier,
    paths: Sequence[Path],
    *,
    per_second: bool,
    device: torch.device,
    batch_size: int = 16,
    workers: int = 0,
    limits: DecodeLimits = USUAL_LIMITS,
) -> Iterator[Prediction | SkippedVideo]:
    """Classify videos as `fima finetune` tests them: scores averaged over clips and crops, then a softmax.

    Args:
        classifier: on `device`.
        paths: the files.
        per_second: one prediction for every second, instead of one for the whole video.
        device: where the clips are classified.
        batch_size: clips at a time.
        workers: processes that decode; 0 decodes in this one.
        limits: what a video may take.

    Yields:
        Predictions, each video's in order of time; videos that cannot be decoded as `SkippedVideo`.
    """
    config = classifier.checkpoint.config
    settings = ClipSettings(
        frames=config.data.frames,
        crop_size=config.data.crop_size,
        num_clips=config.test.clips,
        num_crops=config.test.crops,
        ori_resolution=config.test.ori_resolution,
    )
    log_softmax = averages_log_softmax(config.classifier)

    def scores(clips: Tensor) -> Tensor:
        return clip_scores(classifier.model, clips.to(device, non_blocking=True), log_softmax)

    rows_of_videos = extract_rows(
        paths, scores, settings, per_second=per_second, batch_size=batch_size, workers=workers, limits=limits
    )
    for found in rows_of_videos:
        if isinstance(found, SkippedVideo):
            yield found
            continue
        rows, seconds = found.rows, found.seconds.tolist()
        if not per_second:
            rows, seconds = rows.mean(dim=0, keepdim=True), [[seconds[0][0], max(end for _, end in seconds)]]
        for row, (start, end) in zip(rows.softmax(dim=1), seconds, strict=True):
            yield Prediction(path=paths[found.index], seconds=(start, end), probabilities=row)
