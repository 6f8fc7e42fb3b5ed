"""A classifier's scores of whole videos, and the results of fine-tuning, of linear probing by SGD, and of its test."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fima.checkpoints.classifier import Classifier
from fima.config import ClassifierConfig, FinetuneConfig
from fima.data.clips import TIMING
from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.evaluate.extract import Decoded, Resources, extract_rows, told_apart
from fima.evaluate.features import normalised
from fima.evaluate.loaded_model import Subject
from fima.evaluate.measured import Measured, as_result, classified
from fima.evaluate.metrics import at_least_uniform, top_k_accuracy
from fima.evaluate.protocols import PROTOCOL_VERSIONS, EvaluationResult, SplitLists
from fima.torch_tools import distributed
from fima.torch_tools.modes import in_eval_mode

PROTOCOL_VERSION = 1
AUGMENTATION = ("min_area", "max_area", "flip", "grayscale", "jitter", "blur", "step_between_clips")


@dataclass(frozen=True, kw_only=True)
class ClassifierScores(Decoded):
    """Scores of the videos that can be decoded; the same on every device."""

    scores: Tensor
    """(V, classes) float64: log-probabilities or logits, averaged over the clips of a video."""

    def top(self, k: int) -> float:
        """Return the top-k accuracy in percent."""
        return top_k_accuracy(self.scores, self.labels, k)


def test_classifier(
    model: Classifier, videos: VideoList, clips: ClipSettings, resources: Resources, *, log_softmax: bool
) -> ClassifierScores:
    """Score every video of a labelled list, each once, however many devices share the work.

    The model is on the device of the resources; it is put into eval mode for the test, and back. `log_softmax` averages
    log-probabilities over the clips instead of logits. Raises DataError where not one video can be decoded.
    """
    places = range(distributed.rank(), len(videos.videos), distributed.world_size())
    paths = [videos.videos[place].path for place in places]
    own: list[tuple[int, Tensor | str]] = []
    with in_eval_mode(model):
        for item in extract_rows(paths, lambda pixels: clip_scores(model, pixels, log_softmax), clips, resources):
            scored = item.reason if isinstance(item, SkippedVideo) else item.whole.rows[0]
            own.append((places[item.index], scored))
    found = sorted(distributed.gather_objects(own), key=lambda pair: pair[0])
    scores, decoded = told_apart(videos, [each for _, each in found])
    return ClassifierScores(scores=torch.cat(scores), **vars(decoded))


def clip_scores(model: Classifier, clips: Tensor, log_softmax: bool) -> Tensor:
    """Return the scores (B, classes), float64, of uint8 clips (B, 3, F, S, S) on the model's device."""
    with torch.inference_mode():
        logits: Tensor = model(normalised(clips.float() / 255))
    return logits.double().log_softmax(dim=1) if log_softmax else logits.double()


def averages_log_softmax(classifier: ClassifierConfig) -> bool:
    """Whether the published test averages log-probabilities (I3D) or logits (all others) over the clips."""
    return classifier.backbone == "i3d"


def classifier_result(
    config: FinetuneConfig,
    *,
    lists: Mapping[str, VideoList],
    scores: Mapping[str, ClassifierScores],
    foreground: Measured,
    source: dict[str, Any],
    epoch: int,
    selected_by: float | None,
) -> EvaluationResult:
    """Put together what a run of these settings, resolved, has measured.

    Lists and scores are by name: of the videos that it trained on, `train`, of those that chose the epoch,
    `validation`, where there are such, of the test split, `test`, and of its counterparts; only the last two have
    scores. `source` says what the encoder began from, `epoch` how many whole epochs are behind the tested weights,
    `selected_by` the top-1 that chose them, in percent; None for the last epoch.
    """
    name = "linear_sgd" if config.classifier.freeze else "finetune"
    data = {key: dict[str, Any](videos.describe()) for key, videos in lists.items()}
    for test, found in scores.items():
        data[test] |= found.describe()
    measured = {
        name: classified(
            {test: (found.scores, found.labels) for test, found in scores.items()},
            torch.tensor([video.label for video in lists["train"].videos]),
            settings=protocol_settings(config, len(lists["validation"].videos) if "validation" in lists else 0),
            notes={"epoch": epoch, "top1_that_chose_it": selected_by},
        ),
        "foreground": foreground,
    }
    result = as_result(measured, encoder={"backbone": config.classifier.backbone, **source}, data=data)
    return replace(result, chance=at_least_uniform(result.chance, len(lists["test"].classes)))


def protocol_settings(config: FinetuneConfig, num_held_out: int) -> dict[str, Any]:
    """Return the version and every setting of the protocol; `num_held_out` videos choose the epoch, where they do."""
    classifier, data, test = config.classifier, config.data, config.test
    selection = {
        "last": "the last epoch",
        "validation": f"the epoch with the highest top-1 on {num_held_out} videos held out of the training split",
        "test": "the epoch with the highest top-1 on the TEST split, so the figure flatters",
    }[classifier.select]
    averaged = "log-softmax" if averages_log_softmax(classifier) else "logits"
    return {
        "version": PROTOCOL_VERSION,
        "trained": "linear layer; the encoder is frozen" if classifier.freeze else "encoder and linear layer",
        "optimizer": asdict(config.optim),
        "dropout": classifier.dropout,
        "batch_norm": "running statistics of the pre-training" if classifier.freeze else "trained, by device",
        "l2_normalise": classifier.l2_normalise,
        "pooled_over": "2 x 2 x 2 parts of the clip" if classifier.grid else "the clip",
        "training_clips": {
            "frames": data.frames,
            "crop_size": data.crop_size,
            **{name: getattr(data, name) for name in (*TIMING, *AUGMENTATION)},
        },
        "test_clips": {
            "frames": data.frames,
            "crop_size": data.crop_size,
            "num_clips": test.clips,
            "num_crops": test.crops,
            "ori_resolution": test.ori_resolution,
        },
        "score": f"{averaged} averaged over {test.clips} clips x {test.crops} crops",
        "dataset": data.dataset,
        "split": data.split,
        "selection": selection,
        "low_shot": classifier.low_shot,
        "seed": config.run.seed,
        "precision": {"training": config.run.precision, "test": "fp32"},
        "processes": distributed.world_size(),
    }


def measure_classifier(
    subject: Subject, lists: SplitLists, resources: Resources
) -> tuple[Measured, dict[str, ClassifierScores]]:
    """Run the protocol `evaluate`: the checkpoint's own classifier, its scores averaged over clips and crops.

    Returns what was found, and the scores by test list. Raises DataError where not one video of a list can be decoded.
    """
    assert subject.classifier is not None, "checked when the protocols were chosen"
    trained = subject.classifier.checkpoint.config
    clips = subject.clips
    resolution = trained.test.ori_resolution if clips.ori_resolution is None else clips.ori_resolution
    log_softmax = averages_log_softmax(trained.classifier)
    tested = {
        name: test_classifier(
            subject.classifier.model,
            videos,
            replace(clips, ori_resolution=resolution),
            replace(resources, batch_size=resources.batch_size * clips.num_clips * clips.num_crops),
            log_softmax=log_softmax,
        )
        for name, videos in lists.tests.items()
    }
    scores = {name: (found.scores, found.labels) for name, found in tested.items()}
    settings = {
        "version": PROTOCOL_VERSIONS["evaluate"],
        "clips": asdict(replace(clips, ori_resolution=resolution)),
        "averaged": "log-softmax over clips and crops" if log_softmax else "logits over clips and crops",
        "encoder": "frozen (linear probe by SGD)" if trained.classifier.freeze else "fine-tuned",
        "l2_normalise": trained.classifier.l2_normalise,
        "pooled_over": "2 x 2 x 2 parts of the clip" if trained.classifier.grid else "the clip",
        "dropout": trained.classifier.dropout,
        "batch_norm": "running statistics",
        "optim": asdict(trained.optim),
        "selection": trained.classifier.select,
        "trained_on_split": trained.data.split,
    }
    labels = torch.tensor([video.label for video in lists.train.videos])
    return classified(scores, labels, settings), tested
