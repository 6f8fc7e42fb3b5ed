"""One evaluation: what all processes do together on the videos, then what the main one computes from it."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fima.checkpoints.checkpoint import versions
from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.evaluate.attentive import measure_attentive
from fima.evaluate.cam import MaskLoader
from fima.evaluate.diagnosis import diagnosis_source, measure_diagnosis, read_backgrounds, verdict
from fima.evaluate.extract import Resources
from fima.evaluate.feature_protocols import measure
from fima.evaluate.feature_store import FeatureStore, fill_together
from fima.evaluate.features import EncoderMaps, FeatureSource, cells_source, encoder_source, stages_of
from fima.evaluate.intervals import Tested
from fima.evaluate.loaded_model import Subject
from fima.evaluate.measured import FeatureSets, Measured, by_figure
from fima.evaluate.protocols import ALL_FEATURE_PROTOCOLS, EvaluationConfig, EvaluationResult, SplitLists, SplitName
from fima.evaluate.report import write_class_report
from fima.evaluate.splits import combine
from fima.evaluate.video_protocols import Evaluated, measure_classifier, measure_foreground, measure_occlusion

CLIPS_AT_ONCE = 32
"""Clips that the encoder sees at a time, so that memory does not grow with clips per video."""
STORES = {"pooled": ALL_FEATURE_PROTOCOLS, "cells": ("attentive",), "diagnosis": ("diagnosis",)}
"""Which protocols look at which features."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What the processes found together; the rest is arithmetic."""

    splits: Mapping[SplitName, SplitLists]
    """The lists by the number of the split."""
    protocols: tuple[str, ...]
    """What to measure."""
    config: EvaluationConfig
    """Settings."""
    clips: ClipSettings
    """How clips were cut out of videos."""
    described: dict[str, Any]
    """What the result says of the encoder."""
    stores: Mapping[str, FeatureStore]
    """Features of all videos, in the main process, by the names of `STORES`; those that a protocol looks at."""
    background_labels: Tensor
    """Classes of the backgrounds that it puts behind others."""
    measured: Mapping[SplitName, Mapping[str, Measured]]
    """By split and protocol, those that do not look at features."""
    evaluated: Mapping[SplitName, Mapping[str, Evaluated]]
    """By split and list, the videos of the protocol `evaluate`."""

    def result(self, reports: Path | None = None) -> EvaluationResult:
        """Compute the figures, in one process; see `result_by_video`."""
        return self.result_by_video(reports)[0]

    def result_by_video(self, reports: Path | None = None) -> tuple[EvaluationResult, Tested]:
        """Compute the figures, in one process, and what each protocol made of each test video.

        Args:
            reports: folder for the confusion matrix and the accuracies by class of each protocol that classifies, by
                split where there are several; None writes none.
        """
        results: dict[SplitName, EvaluationResult] = {}
        tested, known = Tested(), True
        for number, lists in self.splits.items():
            measured, evaluated, paths = self._measure(number, lists)
            tested.add(number, measured, paths, lists.groups)
            known = known and bool(lists.groups)
            if reports is not None:
                folder = (
                    reports / f"{'fold' if isinstance(number, str) else 'split'}-{number}"
                    if len(self.splits) > 1
                    else reports
                )
                _write_reports(folder, measured, lists.test.classes)
            results[number] = self._split_result(number, lists, measured, evaluated)
        hashes = [[name, _list_hash(videos)] for lists in self.splits.values() for name, videos in lists.all.items()]
        result = replace(combine(results), seed=self.config.seed, lists_hash=_hash(sorted(hashes)))
        if "diagnosis" in self.protocols:
            result = replace(result, verdict=verdict(tested, result.chance["diagnosis/as_is"], self.config.seed))
        if known:
            result = replace(result, intervals=tested.intervals(self.config.seed), num_groups=tested.num_groups)
        return result, tested

    def _measure(
        self, number: SplitName, lists: SplitLists
    ) -> tuple[dict[str, Measured], dict[str, Evaluated], list[str]]:
        """What was found, which videos of each list were looked at, and the paths of the test videos among them."""
        paths: list[str] = []
        found: dict[str, Measured] = {}
        evaluated = dict(self.evaluated[number])
        for kind, store in self.stores.items():
            features = {name: store.read(videos) for name, videos in lists.all.items()}
            evaluated |= {
                name: Evaluated(num_evaluated=len(each.paths), undecodable=each.undecodable)
                for name, each in features.items()
            }
            paths = features["test"].paths
            tests = {name: features[name] for name in lists.tests}
            sets = FeatureSets(train=features["train"], tests=tests, videos=lists.train, groups=lists.groups)
            for name in STORES[kind]:
                if name in self.protocols:
                    found |= self._of_features(name, sets, store.resources.device)
        found |= self.measured[number]
        return {name: found[name] for name in sorted(found, key=self._place)}, evaluated, paths

    def _of_features(self, name: str, sets: FeatureSets, device: torch.device) -> dict[str, Measured]:
        if name == "attentive":
            return {name: measure_attentive(sets, self.clips, self.config, device)}
        if name == "diagnosis":
            return {name: measure_diagnosis(sets, self.background_labels, self.clips, self.config)}
        return measure(name, sets, self.clips, self.config)

    def _place(self, name: str) -> int:
        """The place among the protocols that were asked for; `linear@max` and `linear_low_shot` go with `linear`."""
        return self.protocols.index(name.partition("@")[0].removesuffix("_low_shot"))

    def _split_result(
        self,
        number: SplitName,
        lists: SplitLists,
        measured: Mapping[str, Measured],
        evaluated: Mapping[str, Evaluated],
    ) -> EvaluationResult:
        return EvaluationResult(
            figures=by_figure(measured, "figures"),
            chance=by_figure(measured, "chance"),
            sd=by_figure(measured, "sd"),
            encoder=self.described,
            protocols={name: found.settings for name, found in measured.items()},
            data={name: _data_record(lists.all[name], number, found) for name, found in evaluated.items()},
            versions=versions(),
            notes={name: found.notes for name, found in measured.items() if found.notes},
        )


def collect(
    subject: Subject,
    splits: Mapping[SplitName, SplitLists],
    config: EvaluationConfig,
    *,
    source: str | Path,
    device: torch.device,
    load_mask: MaskLoader | None = None,
    cache: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Collected:
    """Look at the videos: features of every video once, whatever the number of splits, and the classifier's scores.

    With several processes, all of them call it, and each takes its share of the videos; the main one then computes the
    result.

    Args:
        subject: what is measured.
        splits: labelled lists by the number of the split.
        config: protocols and settings.
        source: what was asked for, for errors.
        device: where the networks are.
        load_mask: from a test video's path to the mask of its foreground; None where there are no masks.
        cache: folder of cached features; None: no cache.
        report: called with the videos whose features are extracted and those to extract.

    Raises:
        ConfigError: a protocol or a split that does not suit the checkpoint.
        CheckpointError: a classifier for other classes.
        DataError: nothing that can be decoded.
    """
    protocols = config.chosen(classifier=subject.classifier is not None, maps=subject.has_maps)
    for number, lists in splits.items():
        subject.check_split(number, lists)
        if "evaluate" in protocols:
            subject.check_classes(lists, source)
    cache = cache if subject.encoder.key is not None else None
    resources = _resources(config, device)
    sources = _encoder_sources(subject, protocols, config)
    background_labels = torch.empty(0, dtype=torch.int64)
    if "diagnosis" in protocols:
        backgrounds, background_labels = read_backgrounds(next(iter(splits.values())).train, subject.clips, resources)
        sources["diagnosis"] = diagnosis_source(subject.encoder, backgrounds)
    stores = _filled_stores(sources, splits, subject.clips, config, device, cache, report)
    measured: dict[SplitName, dict[str, Measured]] = {number: {} for number in splits}
    evaluated: dict[SplitName, dict[str, Evaluated]] = {number: {} for number in splits}
    shown = subject.encoder.module, subject.clips
    for number, lists in splits.items():
        if "evaluate" in protocols:
            measured[number]["evaluate"], evaluated[number] = measure_classifier(subject, lists, resources)
        if "foreground" in protocols:
            measured[number]["foreground"] = measure_foreground(*shown, lists.test, load_mask, resources)
        if "occlusion" in protocols:
            measured[number]["occlusion"] = measure_occlusion(*shown, lists.test, load_mask, resources)
    return Collected(
        splits=splits,
        protocols=protocols,
        config=config,
        clips=subject.clips,
        described=subject.describe(),
        stores=stores,
        background_labels=background_labels,
        measured=measured,
        evaluated=evaluated,
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
    """Evaluate any source of features, such as raw frame differences, in one process.

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

    Raises:
        DataError: a list without labels, lists of different classes, or nothing that can be decoded.
    """
    splits: dict[SplitName, SplitLists] = {1: SplitLists(train=train, test=test, extra_tests=extra_tests or {})}
    splits[1].check_labels()
    collected = Collected(
        splits=splits,
        protocols=config.chosen(classifier=False, encoder=False),
        config=config,
        clips=clips,
        described={"features": source.name, **described},
        stores=_filled_stores({"pooled": source}, splits, clips, config, device, cache, None),
        background_labels=torch.empty(0, dtype=torch.int64),
        measured={1: {}},
        evaluated={1: {}},
    )
    return collected.result()


def _resources(config: EvaluationConfig, device: torch.device) -> Resources:
    """What the work may take, `batch_size` videos at a time."""
    return Resources(device=device, batch_size=config.batch_size, workers=config.workers, limits=config.limits)


def _encoder_sources(subject: Subject, protocols: Sequence[str], config: EvaluationConfig) -> dict[str, FeatureSource]:
    """What the protocols look at of the encoder's feature map, by the names of `STORES`."""
    module, name = subject.encoder.module, subject.encoder.key or subject.encoder.name
    maps = EncoderMaps(module, stages_of(module, config.features))
    sources = {}
    if not set(protocols).isdisjoint(STORES["pooled"]):
        sources["pooled"] = encoder_source(module, name, config.features, maps)
    if not set(protocols).isdisjoint(STORES["cells"]):
        sources["cells"] = cells_source(maps, name)
    return sources


def _filled_stores(
    sources: Mapping[str, FeatureSource],
    splits: Mapping[SplitName, SplitLists],
    clips: ClipSettings,
    config: EvaluationConfig,
    device: torch.device,
    cache: Path | None,
    report: Callable[[int, int], None] | None,
) -> dict[str, FeatureStore]:
    """The features of all videos, each decoded once for all sources."""
    clips_at_once = min(CLIPS_AT_ONCE, config.batch_size * clips.num_clips * clips.num_crops)
    resources = replace(_resources(config, device), batch_size=clips_at_once)
    stores = {
        kind: FeatureStore(source, clips, resources, cache=cache, report=report) for kind, source in sources.items()
    }
    every_list = (videos for lists in splits.values() for videos in lists.all.values())
    fill_together(list(stores.values()), (video.path for videos in every_list for video in videos.videos))
    return stores


def _data_record(videos: VideoList, number: SplitName, evaluated: Evaluated) -> dict[str, Any]:
    return {
        **videos.describe(),
        ("fold" if isinstance(number, str) else "split_index"): number,
        "list_hash": _list_hash(videos),
        "num_evaluated": evaluated.num_evaluated,
        "undecodable": [{"path": video.path, "reason": video.reason} for video in evaluated.undecodable],
    }


def _list_hash(videos: VideoList) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a list's paths below its root, with the classes."""
    root = videos.root.absolute()
    rows = sorted((os.path.relpath(video.path.absolute(), root), video.label) for video in videos.videos)
    return _hash([videos.classes, rows])


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _write_reports(folder: Path, measured: Mapping[str, Measured], classes: Sequence[str]) -> None:
    for name, found in measured.items():
        for test, (scores, labels) in found.scores.items():
            write_class_report(folder / (name if test == "test" else f"{name}-{test}"), scores, labels, classes)
