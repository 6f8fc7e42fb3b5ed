"""Class probabilities of videos, and of their seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fima.checkpoints.classifier import LoadedClassifier
from fima.data.eval_clips import test_clips
from fima.data.loader import SkippedVideo
from fima.evaluate.classifier_result import averages_log_softmax, clip_scores
from fima.evaluate.extract import Resources, extract_rows


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a video, or a second of it, shows."""

    path: Path
    seconds: tuple[float, float]
    """From when to when; NaN where the video has no frame rate."""
    probabilities: Tensor
    """(classes,), float64."""


def predict(
    classifier: LoadedClassifier,
    paths: Sequence[Path],
    resources: Resources,
    *,
    per_second: bool,
    frame_rate: float | None = None,
) -> Iterator[Prediction | SkippedVideo]:
    """Classify videos as `fima finetune` tests them: scores averaged over clips and crops, then a softmax.

    `per_second` gives one prediction for every second, instead of one for the whole video, in order of time; where the
    classifier was trained on a share of each video, their frames are two frames of the video apart.
    `frame_rate` is that of videos whose files do not state one; None: as in training. Videos that cannot be decoded
    come as `SkippedVideo`.
    """
    config = classifier.checkpoint.config
    settings = test_clips(config)
    settings = settings if frame_rate is None else replace(settings, frame_rate=frame_rate)
    # The clip of a second covers that second, not a share of the video.
    settings = replace(settings, span=0.0) if per_second else settings
    log_softmax = averages_log_softmax(config.classifier)

    def scores(clips: Tensor) -> Tensor:
        return clip_scores(classifier.model, clips, log_softmax)

    for found in extract_rows(paths, scores, settings, resources, per_second=per_second):
        if isinstance(found, SkippedVideo):
            yield found
            continue
        shown = found if per_second else found.whole
        for row, (start, end) in zip(shown.rows.mean(dim=1).softmax(dim=1), shown.seconds.tolist(), strict=True):
            yield Prediction(path=paths[found.index], seconds=(start, end), probabilities=row)
