"""One evaluation: what all processes do together on the videos; the main one then computes the result from it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fima.data.eval_clips import ClipSettings
from fima.evaluate.cam import MaskLoader
from fima.evaluate.collected import NO_LABELS, STORES, Collected
from fima.evaluate.diagnosis import diagnosis_source, read_backgrounds
from fima.evaluate.extract import Resources
from fima.evaluate.feature_store import FeatureStore, fill_together
from fima.evaluate.features import EncoderMaps, FeatureSource, cells_source, encoder_source, stages_of
from fima.evaluate.linear import check_classes
from fima.evaluate.loaded_model import Subject
from fima.evaluate.measured import Measured
from fima.evaluate.protocols import EvaluationConfig, EvaluationResult, SplitLists, SplitName
from fima.evaluate.video_protocols import measure_classifier, measure_foreground, measure_occlusion

CLIPS_AT_ONCE = 32
"""Clips that the encoder sees at a time, so that memory does not grow with clips per video."""
PROBES = {"linear": 2, "attentive": 2, "diagnosis": 2, "low_shot_curve": 1}
"""Protocols that fit a probe, and the training videos that they need of some class."""


def collect(
    subjects: Sequence[Subject],
    splits: Mapping[SplitName, SplitLists],
    config: EvaluationConfig,
    *,
    device: torch.device,
    load_mask: MaskLoader | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[Collected]:
    """Look at the videos: each is decoded once for the features of all encoders that are shown the same clips of it.

    With several processes, all of them call it, and each takes its share of the videos; the main one then computes the
    results.

    Args:
        subjects: what is measured.
        splits: labelled lists by the number of the split.
        config: protocols and settings.
        device: where the networks are.
        load_mask: from a test video's path to the mask of its foreground; None where there are no masks.
        report: called with the videos whose features are extracted and those to extract.

    Raises:
        ConfigError: a protocol or a split that does not suit a checkpoint.
        CheckpointError: a classifier for other classes.
        DataError: nothing that can be decoded.
    """
    chosen = [_protocols(subject, splits, config) for subject in subjects]
    resources = _resources(config, device)
    backgrounds = {
        subject.clips: read_backgrounds(next(iter(splits.values())).train, subject.clips, resources)
        for subject, protocols in zip(subjects, chosen, strict=True)
        if "diagnosis" in protocols
    }
    everything = []
    for subject, protocols in zip(subjects, chosen, strict=True):
        sources = _encoder_sources(subject, protocols, config)
        behind, labels = backgrounds.get(subject.clips, (None, NO_LABELS))
        if behind is not None and "diagnosis" in protocols:
            sources["diagnosis"] = diagnosis_source(subject.encoder, behind)
        cache = subject.cache if subject.encoder.key is not None else None
        collected = Collected(
            splits=splits,
            protocols=protocols,
            config=config,
            clips=subject.clips,
            described=subject.describe(),
            stores=_stores(sources, subject.clips, config, device, cache, report),
            background_labels=labels,
        )
        everything.append(collected)
    _fill((store for collected in everything for store in collected.stores.values()), splits)
    return [
        _with_video_protocols(subject, collected, load_mask, resources)
        for subject, collected in zip(subjects, everything, strict=True)
    ]


def evaluate_source(
    source: FeatureSource,
    lists: SplitLists,
    clips: ClipSettings,
    config: EvaluationConfig,
    *,
    described: dict[str, Any],
    device: torch.device,
    cache: Path | None = None,
) -> EvaluationResult:
    """Evaluate any source of features, such as raw frame differences, in one process.

    The result says `described` of the source; features are kept in the folder `cache`, where one is given.

    Raises:
        DataError: a list without labels, lists of different classes, or nothing that can be decoded.
    """
    lists.check_labels()
    splits: dict[SplitName, SplitLists] = {1: lists}
    stores = _stores({"pooled": source}, clips, config, device, cache, None)
    _fill(stores.values(), splits)
    return Collected(
        splits=splits,
        protocols=config.chosen(classifier=False, encoder=False),
        config=config,
        clips=clips,
        described={"features": source.name, **described},
        stores=stores,
    ).result()


def _protocols(subject: Subject, splits: Mapping[SplitName, SplitLists], config: EvaluationConfig) -> tuple[str, ...]:
    """What is measured of a subject; refuses lists that do not suit its classifier or the probes."""
    protocols = config.chosen(classifier=subject.classifier is not None, maps=subject.has_maps)
    for number, lists in splits.items():
        subject.check_split(number, lists)
        if "evaluate" in protocols:
            subject.check_classes(lists)
        labels = torch.tensor([video.label for video in lists.train.videos])
        for name in (each for each in protocols if each in PROBES):
            where = f"{'fold' if isinstance(number, str) else 'split'} {number}: "
            check_classes(labels, len(lists.train.classes), name, least=PROBES[name], where=where)
    return protocols


def _with_video_protocols(
    subject: Subject, collected: Collected, load_mask: MaskLoader | None, resources: Resources
) -> Collected:
    """Add what the protocols find that look at the videos themselves."""
    measured: dict[SplitName, dict[str, Measured]] = {number: {} for number in collected.splits}
    evaluated: dict[SplitName, dict[str, dict[str, Any]]] = {}
    for number, lists in collected.splits.items():
        shown = subject.encoder.module, subject.clips, lists.test, load_mask, resources
        if "evaluate" in collected.protocols:
            measured[number]["evaluate"], evaluated[number] = measure_classifier(subject, lists, resources)
        if "foreground" in collected.protocols:
            measured[number]["foreground"] = measure_foreground(*shown)
        if "occlusion" in collected.protocols:
            measured[number]["occlusion"] = measure_occlusion(*shown)
    return replace(collected, measured=measured, evaluated=evaluated)


def _resources(config: EvaluationConfig, device: torch.device) -> Resources:
    """What the work may take, `batch_size` videos at a time."""
    return Resources(device=device, batch_size=config.batch_size, workers=config.workers, limits=config.limits)


def _encoder_sources(subject: Subject, protocols: Sequence[str], config: EvaluationConfig) -> dict[str, FeatureSource]:
    """What the protocols look at of the encoder's feature map, by the names of `STORES`."""
    module, name = subject.encoder.module, subject.encoder.fingerprint
    maps = EncoderMaps(module, stages_of(module, config.features))
    sources = {}
    if not set(protocols).isdisjoint(STORES["pooled"]):
        sources["pooled"] = encoder_source(module, name, config.features, maps)
    if not set(protocols).isdisjoint(STORES["cells"]):
        sources["cells"] = cells_source(maps, name)
    return sources


def _stores(
    sources: Mapping[str, FeatureSource],
    clips: ClipSettings,
    config: EvaluationConfig,
    device: torch.device,
    cache: Path | None,
    report: Callable[[int, int], None] | None,
) -> dict[str, FeatureStore]:
    """Where the features of an encoder go, by the names of `STORES`."""
    clips_at_once = min(CLIPS_AT_ONCE, config.batch_size * clips.num_clips * clips.num_crops)
    resources = replace(_resources(config, device), batch_size=clips_at_once)
    return {
        kind: FeatureStore(source, clips, resources, cache=cache, report=report) for kind, source in sources.items()
    }


def _fill(stores: Iterable[FeatureStore], splits: Mapping[SplitName, SplitLists]) -> None:
    """Extract the features of all videos; each is decoded once for all stores of the same clips."""
    every_list = (videos for lists in splits.values() for videos in lists.all.values())
    paths = [video.path for videos in every_list for video in videos.videos]
    by_clips: dict[ClipSettings, list[FeatureStore]] = {}
    for store in stores:
        by_clips.setdefault(store.settings, []).append(store)
    for together in by_clips.values():
        fill_together(together, paths)
