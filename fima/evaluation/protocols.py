"""The evaluation protocols by name: what each measures, its settings, and one result for all of them."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fima.data.datasets import VideoList
from fima.engine.checkpoint import LoadedEncoder, versions
from fima.errors import ConfigError, DataError
from fima.evaluation.features import ClipSettings, Features, FeatureSource, encoder_source, extract_features
from fima.evaluation.knn import NUM_NEIGHBOURS, TEMPERATURE, knn_scores
from fima.evaluation.linear import INVERSE_REGULARISATIONS, NUM_FOLDS, fit_linear_probe
from fima.evaluation.metrics import top_k_accuracy
from fima.evaluation.retrieval import RANKS, retrieve, same_video_share
from fima.recipe import config_to_mapping
from fima.visual.cam import MaskLoader, foreground_share

PROTOCOL_VERSIONS = {"linear": 1, "knn": 1, "retrieval": 1, "same_video": 1}
PROTOCOLS = tuple(PROTOCOL_VERSIONS)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings of an evaluation; they are part of its result."""

    protocols: tuple[str, ...] = PROTOCOLS
    """What to measure: `linear`, `knn`, `retrieval`, `same_video`."""
    num_clips: int = 10
    """Clips per video, evenly spread over it."""
    l2_normalise: bool = False
    """L2-normalise the pooled features before the linear probe standardises them."""
    seed: int = 0
    """Decides which training videos are held out when the linear probe chooses its regularisation."""
    batch_size: int = 8
    """Videos at a time."""
    workers: int = 2
    """Processes that decode; 0 decodes in the main one."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown or not self.protocols:
            wrong = unknown[0] if unknown else "(none)"
            raise ConfigError(f"--protocols {wrong}: choose from {', '.join(PROTOCOLS)}")
        for name, smallest in (("num_clips", 1), ("seed", 0), ("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < smallest:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be at least {smallest}")
        if "same_video" in self.protocols and self.num_clips < 2:
            raise ConfigError(f"--num_clips {self.num_clips}: the protocol same_video needs at least 2")


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Figures in percent, with everything that they depend on."""

    figures: dict[str, float]
    """By name: `<protocol>/<figure>`, and `<protocol>/<extra test>/<figure>` for further test lists."""
    chance: dict[str, float]
    """What a random guess gets, by the names of `figures`."""
    encoder: dict[str, Any]
    """What was evaluated."""
    protocols: dict[str, dict[str, Any]]
    """By protocol: its version and its settings."""
    data: dict[str, dict[str, Any]]
    """By list: its summary, the number of videos evaluated, and the files that could not be decoded."""
    versions: dict[str, str]
    """Of fima, torch and Python."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the protocols chose on the way, such as the regularisation and the accuracies that decided it."""

    def save(self, path: Path) -> None:
        """Write as JSON, in one piece."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
        temporary.replace(path)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one protocol found."""

    figures: dict[str, float]
    chance: dict[str, float]
    notes: dict[str, Any] = field(default_factory=dict)


def evaluate(
    loaded: LoadedEncoder,
    *,
    train: VideoList,
    test: VideoList,
    config: EvaluationConfig,
    device: torch.device,
    extra_tests: Mapping[str, VideoList] | None = None,
    load_mask: MaskLoader | None = None,
    cache: Path | None = None,
) -> EvaluationResult:
    """Evaluate the encoder of a checkpoint on the frames and crop size that it was trained with.

    Args:
        loaded: the encoder.
        train: labelled training videos.
        test: labelled test videos.
        config: protocols and settings.
        device: where features are computed; the encoder is on it.
        extra_tests: further test lists by name, scored by the same probe and neighbours.
        load_mask: from a test video's path to the mask of its foreground, to measure which part of the activation
            falls on it; None where there are no masks.
        cache: folder of cached features; None: no cache.

    Raises:
        DataError: a list without labels, lists of different classes, or nothing that can be decoded.
    """
    data = loaded.config.data
    clips = ClipSettings(frames=data.frames, crop_size=data.crop_size, num_clips=config.num_clips)
    result = evaluate_source(
        encoder_source(loaded.encoder, f"checkpoint {loaded.checkpoint_hash}"),
        clips=clips,
        described={
            "description": loaded.description,
            "checkpoint_hash": loaded.checkpoint_hash,
            "epoch": loaded.epoch,
            "config": config_to_mapping(loaded.config),
        },
        train=train,
        test=test,
        config=config,
        device=device,
        extra_tests=extra_tests,
        cache=cache,
    )
    if load_mask is None:
        return result
    found = foreground_share(
        loaded.encoder, test, load_mask, clips, device=device, batch_size=config.batch_size, workers=config.workers
    )
    foreground = {"version": 1, "clips": asdict(clips), "map": "mean over channels and time, minus its minimum"}
    return replace(
        result,
        figures={**result.figures, "foreground/share": found.share},
        chance={**result.chance, "foreground/share": found.chance},
        protocols={**result.protocols, "foreground": foreground},
    )


def evaluate_source(
    source: FeatureSource,
    *,
    clips: ClipSettings,
    described: dict[str, Any],
    train: VideoList,
    test: VideoList,
    config: EvaluationConfig,
    device: torch.device,
    extra_tests: Mapping[str, VideoList] | None = None,
    cache: Path | None = None,
) -> EvaluationResult:
    """Evaluate any source of features, such as raw frame differences; see `evaluate`.

    Args:
        source: what turns clips into features.
        clips: how clips are cut out of videos.
        described: what the result says about the source.
        train: labelled training videos.
        test: labelled test videos.
        config: protocols and settings.
        device: where features are computed.
        extra_tests: further test lists by name.
        cache: folder of cached features; None: no cache.
    """
    lists = {"train": train, "test": test, **(extra_tests or {})}
    _check_labels(lists)
    features = {
        name: extract_features(
            source, videos, clips, device=device, batch_size=config.batch_size, workers=config.workers, cache=cache
        )
        for name, videos in lists.items()
    }
    tests = {name: found for name, found in features.items() if name != "train"}
    measured = {name: _measure(name, features["train"], tests, len(train.classes), config) for name in config.protocols}
    return EvaluationResult(
        figures={f"{name}/{key}": value for name, found in measured.items() for key, value in found.figures.items()},
        chance={f"{name}/{key}": value for name, found in measured.items() for key, value in found.chance.items()},
        encoder={"features": source.name, **described},
        protocols={name: _protocol_settings(name, clips, config) for name in config.protocols},
        data={name: _data_record(videos, features[name]) for name, videos in lists.items()},
        versions=versions(),
        notes={name: found.notes for name, found in measured.items() if found.notes},
    )


def _measure(
    name: str, train: Features, tests: Mapping[str, Features], num_classes: int, config: EvaluationConfig
) -> Measured:
    match name:
        case "linear":
            return _linear(train, tests, num_classes, config)
        case "knn":
            return _knn(train, tests, num_classes)
        case "retrieval":
            return _retrieval(train, tests)
        case _:
            return _same_video(train)


def _linear(train: Features, tests: Mapping[str, Features], num_classes: int, config: EvaluationConfig) -> Measured:
    probe = fit_linear_probe(
        train.per_video,
        train.labels,
        num_classes=num_classes,
        seed=config.seed,
        l2_normalise=config.l2_normalise,
    )
    figures: dict[str, float] = {}
    chance: dict[str, float] = {}
    for test_name, test in tests.items():
        scores = probe.scores(test.per_video)
        for k in (1, 5):
            figures[_key(test_name, f"top{k}")] = top_k_accuracy(scores, test.labels, k)
            chance[_key(test_name, f"top{k}")] = 100 * min(1.0, k / num_classes)
    chosen = {"inverse_regularisation": probe.inverse_regularisation, "held_out_accuracies": probe.held_out_accuracies}
    return Measured(figures=figures, chance=chance, notes=chosen)


def _knn(train: Features, tests: Mapping[str, Features], num_classes: int) -> Measured:
    figures: dict[str, float] = {}
    for test_name, test in tests.items():
        scores = knn_scores(train.per_video, train.labels, test.per_video, num_classes=num_classes)
        figures[_key(test_name, "top1")] = top_k_accuracy(scores, test.labels, 1)
    return Measured(figures=figures, chance=dict.fromkeys(figures, 100 / num_classes))


def _retrieval(train: Features, tests: Mapping[str, Features]) -> Measured:
    figures: dict[str, float] = {}
    chance: dict[str, float] = {}
    for test_name, test in tests.items():
        found = retrieve(train.per_video, train.labels, test.per_video, test.labels)
        figures |= {_key(test_name, f"R@{k}"): value for k, value in found.recall.items()}
        chance |= {_key(test_name, f"R@{k}"): value for k, value in found.chance.items()}
    return Measured(figures=figures, chance=chance)


def _same_video(train: Features) -> Measured:
    num_videos, num_clips = train.pooled.shape[:2]
    chance = 100 * (num_clips - 1) / (num_videos * num_clips - 1)
    return Measured(figures={"train": same_video_share(train.pooled)}, chance={"train": chance})


def _key(test_name: str, figure: str) -> str:
    return figure if test_name == "test" else f"{test_name}/{figure}"


def _protocol_settings(name: str, clips: ClipSettings, config: EvaluationConfig) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "linear": {
            "classifier": "logistic regression on standardised features, mean over the clips",
            "l2_normalise": config.l2_normalise,
            "candidates": list(INVERSE_REGULARISATIONS),
            "selection": f"{NUM_FOLDS}-fold cross-validation on the training videos",
            "seed": config.seed,
        },
        "knn": {"num_neighbours": NUM_NEIGHBOURS, "temperature": TEMPERATURE, "similarity": "cosine"},
        "retrieval": {"ranks": list(RANKS), "similarity": "cosine after subtracting each list's own mean"},
        "same_video": {"similarity": "cosine between clips after subtracting their mean"},
    }
    return {"version": PROTOCOL_VERSIONS[name], "clips": asdict(clips), **own[name]}


def _data_record(videos: VideoList, features: Features) -> dict[str, Any]:
    return {
        **videos.describe(),
        "num_evaluated": len(features.paths),
        "undecodable": [{"path": video.path, "reason": video.reason} for video in features.undecodable],
    }


def _check_labels(lists: Mapping[str, VideoList]) -> None:
    """Raise DataError where a list has no labels or other classes than the training list."""
    classes = lists["train"].classes
    for name, videos in lists.items():
        unlabelled = [video.path for video in videos.videos if video.label is None]
        if not videos.classes or unlabelled:
            example = f", such as {unlabelled[0]}" if unlabelled else ""
            raise DataError(
                f"{videos.root}: the {name} list has videos without a class{example}; evaluation needs labels"
            )
        if videos.classes != classes:
            raise DataError(f"{videos.root}: the classes of the {name} list are not those of {lists['train'].root}")
