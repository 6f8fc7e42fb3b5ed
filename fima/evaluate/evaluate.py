"""One evaluation: what all processes do together on the videos; the main one then computes the result from it."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fima.data.clip_overrides import timed
from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.evaluate.attentive import measure_attentive
from fima.evaluate.cam import MaskLoader, foreground_share, occlusion_share
from fima.evaluate.classifier_result import measure_classifier
from fima.evaluate.diagnosis import diagnosis_source, measure_diagnosis, read_backgrounds, verdict
from fima.evaluate.extract import Decoded, Resources
from fima.evaluate.feature_protocols import measure
from fima.evaluate.feature_store import FeatureStore, digest, fill_together
from fima.evaluate.features import EncoderMaps, FeatureSource, cells_source, encoder_source, side_by_side
from fima.evaluate.intervals import Tested
from fima.evaluate.linear import check_classes
from fima.evaluate.linear_protocols import check_low_shot
from fima.evaluate.loaded_model import Subject
from fima.evaluate.measured import FeatureSets, Measured, as_result
from fima.evaluate.metrics import at_least_uniform
from fima.evaluate.protocols import (
    ALL_FEATURE_PROTOCOLS,
    PROTOCOLS,
    EvaluationConfig,
    EvaluationResult,
    SplitLists,
    SplitName,
)
from fima.evaluate.report import CONFUSION, PER_CLASS, write_class_report
from fima.evaluate.splits import combine

STORES = {"pooled": ALL_FEATURE_PROTOCOLS, "cells": ("attentive",), "diagnosis": ("diagnosis",)}
"""Which protocols look at which features."""
CLIPS_AT_ONCE = 32
"""Clips that the encoder sees at a time, so that memory does not grow with clips per video."""
Scores = Mapping[str, tuple[Tensor, Tensor]]
"""By protocol, and test list where that is not `test`: class scores (V, classes) and labels (V,)."""
Table = tuple[Scores, Sequence[str]]
"""Scores, and the names of the classes."""
PROBES = {"linear": 2, "attentive": 2, "diagnosis": 2, "low_shot_curve": 1}
"""Protocols that fit a probe, and the training videos that they need of some class."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What the processes found together; the rest is arithmetic."""

    subject: Subject
    splits: Mapping[SplitName, SplitLists]
    protocols: tuple[str, ...]
    config: EvaluationConfig
    stores: Mapping[str, Mapping[str, FeatureStore]]
    """Features of all videos, in the main process, by the names of `STORES` and by window ("": the usual one); those
    that a protocol looks at."""
    measured: dict[SplitName, dict[str, Measured]] = field(default_factory=lambda: defaultdict(dict))
    """By split and protocol, those that do not look at features."""
    evaluated: dict[SplitName, Mapping[str, Decoded]] = field(default_factory=dict)
    """By split and test list, the videos that the protocol `evaluate` looked at."""

    @property
    def looked_at(self) -> dict[str, Any]:
        """What another measurement has others of: clips, features to choose from where a protocol looks at them, and
        settings of the probe that are not the usual ones."""
        has_features = not set(self.protocols).isdisjoint(ALL_FEATURE_PROTOCOLS)
        usual = EvaluationConfig()
        probe = {name: getattr(self.config, name) for name in ("seed", "low_shot", "low_shot_draws", "l2_normalise")}
        return {
            "clips": asdict(self.subject.clips),
            "features": [*self.config.candidates] if has_features else [],
            **{name: value for name, value in probe.items() if value != getattr(usual, name)},
        }

    @property
    def lists_hash(self) -> str:
        """Hash of all lists of all splits or folds together."""
        hashes = [[name, _list_hash(videos)] for lists in self.splits.values() for name, videos in lists.all.items()]
        return digest(sorted(hashes))[:16]

    def result(self, reports: Path | None = None) -> tuple[EvaluationResult, Tested]:
        """Compute the figures, in one process, and what each protocol made of each test video.

        Confusion matrix and accuracies by class of each protocol that classifies go into the folder `reports`, by split
        where there are several, and of all folds together; None writes none.
        """
        results: dict[SplitName, EvaluationResult] = {}
        tested = Tested()
        tables: dict[SplitName, Table] = {}
        for number, lists in self.splits.items():
            measured, evaluated = self._measure(number, lists)
            tested.add(number, measured, evaluated["test"].paths if "test" in evaluated else [], lists.groups)
            every = ((name, test, own) for name, found in measured.items() for test, own in found.scores.items())
            scores = {name if test == "test" else f"{name}-{test}": own for name, test, own in every}
            tables[number] = scores, lists.test.classes
            which = {"fold" if _unit(number) == "fold" else "split_index": number}
            data = {
                name: {**videos.describe(), **which, "list_hash": _list_hash(videos), **evaluated[name].describe()}
                for name, videos in lists.all.items()
                if name in evaluated
            }
            results[number] = as_result(measured, encoder=self.subject.describe(), data=data)
        given = {name: getattr(self.config, name) for name in ("cross_validation", "folds", "group_by")}
        grouping = {name: value for name, value in given.items() if value is not None}
        result = replace(combine(results), grouping=grouping, seed=self.config.seed, lists_hash=self.lists_hash)
        result = replace(result, looked_at=self.looked_at)
        num_classes = len(next(iter(self.splits.values())).test.classes)
        result = replace(result, chance=at_least_uniform(result.chance, num_classes))
        if "diagnosis" in self.protocols:
            is_blind = all(found.notes["diagnosis"]["still_clips_alike"] for found in results.values())
            chance = result.chance["diagnosis/as_is"]
            result = replace(result, verdict=verdict(tested, chance, self.config.seed, is_blind=is_blind))
        if all(lists.groups for lists in self.splits.values()):
            result = replace(result, intervals=tested.intervals(self.config.seed), num_groups=tested.num_groups)
        if reports is not None:  # when nothing can fail any more: those of an earlier evaluation go
            _replace_reports(reports, _by_folder(reports, tables))
        return result, tested

    def _measure(self, number: SplitName, lists: SplitLists) -> tuple[dict[str, Measured], dict[str, Decoded]]:
        """What was found, and which videos of each list were looked at."""
        found: dict[str, Measured] = {}
        evaluated = dict(self.evaluated.get(number, {}))
        for kind, stores in self.stores.items():
            features = {
                name: side_by_side({window: store.read(videos) for window, store in stores.items()})
                for name, videos in lists.all.items()
            }
            evaluated |= features
            train, tests = features["train"], {name: features[name] for name in lists.tests}
            is_fold = isinstance(number, str)
            sets = FeatureSets(train=train, tests=tests, videos=lists.train, groups=lists.groups, is_fold=is_fold)
            if kind == "cells":
                found["attentive"] = measure_attentive(
                    sets, self.subject.clips, self.config, stores[""].resources.device
                )
            elif kind == "diagnosis":
                found["diagnosis"] = measure_diagnosis(sets, self.subject.clips, self.config)
            else:
                for name in STORES[kind]:
                    found |= measure(name, sets, self.subject.clips, self.config) if name in self.protocols else {}
        found |= self.measured[number]
        ordered = sorted(found, key=lambda name: self.protocols.index(self.protocol_of(name)))
        return {name: found[name] for name in ordered}, evaluated

    @staticmethod
    def protocol_of(name: str) -> str:
        """Return the protocol whose settings a result lists by a name: `linear` for `linear@max`, `linear_low_shot`."""
        return name.partition("@")[0].removesuffix("_low_shot")


def _list_hash(videos: VideoList) -> str:
    """The `digest` of a list's paths below its root, with the classes, 16 digits of it."""
    root = videos.root.absolute()
    rows = sorted((os.path.relpath(video.path.absolute(), root), video.label) for video in videos.videos)
    return digest([videos.classes, rows])[:16]


def _unit(number: SplitName) -> str:
    return "fold" if isinstance(number, str) else "split"


def _by_folder(reports: Path, tables: Mapping[SplitName, Table]) -> Mapping[Path, Table]:
    """What each folder of reports is of: a split or a fold, or all folds together, which test every video once."""
    (first, (_, classes)), *others = tables.items()
    if not others:
        return {reports: tables[first]}
    # A slash in the name of a fold makes no folder of its own.
    found = {reports / f"{_unit(name)}-{name}".replace("/", "%2F"): table for name, table in tables.items()}
    if _unit(first) == "fold" and all(other == classes for _, (_, other) in others):
        found[reports] = _together([scores for scores, _ in tables.values()]), classes
    return found


def _together(folds: Sequence[Scores]) -> Scores:
    """The scores of all folds, where each of them has some."""
    pairs = {name: [fold[name] for fold in folds] for name in folds[0] if all(name in fold for fold in folds)}
    joined = {name: zip(*found, strict=True) for name, found in pairs.items()}
    return {name: (torch.cat(scores), torch.cat(labels)) for name, (scores, labels) in joined.items()}


def _replace_reports(reports: Path, tables: Mapping[Path, Table]) -> None:
    """Write the tables of each folder, and remove those of an earlier evaluation, which may be of other protocols."""
    for folder in (path for pattern in ("*", "fold-*/*", "split-*/*") for path in reports.glob(pattern)):
        if re.split("[@-]", folder.name)[0] in PROTOCOLS:
            for name in (CONFUSION, PER_CLASS):
                (folder / name).unlink(missing_ok=True)
    for folder, (found, classes) in tables.items():
        for name, (scores, labels) in found.items():
            write_class_report(folder / name, scores, labels, classes)


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
    results. `load_mask` gives the mask of a test video's foreground, where there are masks; `report` is called with the
    videos whose features are extracted and those to extract. Raises ConfigError for a protocol or a split that does not
    suit a checkpoint, CheckpointError for a classifier of other classes, DataError where nothing can be decoded.
    """
    chosen = [_protocols(subject, splits, config) for subject in subjects]
    resources = Resources(device=device, batch_size=config.batch_size, workers=config.workers, limits=config.limits)
    first = next(iter(splits.values())).train
    diagnosed = {each.clips for each, protocols in zip(subjects, chosen, strict=True) if "diagnosis" in protocols}
    backgrounds = {clips: read_backgrounds(first, clips, resources) for clips in diagnosed}
    everything = [
        Collected(
            subject=subject,
            splits=splits,
            protocols=protocols,
            config=config,
            stores=_stores(subject, protocols, config, backgrounds, resources, report),
        )
        for subject, protocols in zip(subjects, chosen, strict=True)
    ]
    by_clips: dict[ClipSettings, list[FeatureStore]] = defaultdict(list)
    for store in (store for collected in everything for own in collected.stores.values() for store in own.values()):
        by_clips[store.settings].append(store)
    paths = [video.path for lists in splits.values() for videos in lists.all.values() for video in videos.videos]
    for together in by_clips.values():
        fill_together(together, paths)
    for collected, (number, lists) in product(everything, splits.items()):
        subject, protocols, measured = collected.subject, collected.protocols, collected.measured[number]
        shown = subject.encoder.module, lists.test, load_mask, subject.clips, resources
        if "evaluate" in protocols:
            measured["evaluate"], collected.evaluated[number] = measure_classifier(subject, lists, resources)
        if "foreground" in protocols:
            measured["foreground"] = foreground_share(*shown)
        if "occlusion" in protocols:
            measured["occlusion"] = occlusion_share(*shown)
    return everything


def _protocols(subject: Subject, splits: Mapping[SplitName, SplitLists], config: EvaluationConfig) -> tuple[str, ...]:
    """What is measured of a subject; refuses lists that do not suit its classifier or the probes."""
    protocols = config.chosen(subject.clips, classifier=subject.classifier is not None, maps=subject.has_maps)
    for number, lists in splits.items():
        subject.check_split(number, lists)
        if "evaluate" in protocols:
            subject.check_classes(lists)
        labels = torch.tensor([video.label for video in lists.train.videos])
        where = f"{_unit(number)} {number}: "
        for name in (each for each in protocols if each in PROBES):
            # Of several features, the probe on training videos that are held out says which.
            least = PROBES["linear"] if len(config.candidates) > 1 else PROBES[name]
            check_classes(labels, len(lists.train.classes), name, least=least, where=where)
        if "linear" in protocols and config.low_shot is not None:
            check_low_shot(config.low_shot, labels, where)
    return protocols


def _stores(
    subject: Subject,
    protocols: Sequence[str],
    config: EvaluationConfig,
    backgrounds: Mapping[ClipSettings, tuple[Tensor, Tensor]],
    resources: Resources,
    report: Callable[[int, int], None] | None,
) -> dict[str, dict[str, FeatureStore]]:
    """What the protocols look at of an encoder, as `Collected.stores`; backgrounds of `diagnosis` are by clips."""
    encoder, clips = subject.encoder, subject.clips
    maps = EncoderMaps(encoder.module, config.features)
    sources: dict[str, FeatureSource] = {}
    if not set(protocols).isdisjoint(STORES["pooled"]):
        sources["pooled"] = encoder_source(encoder.module, encoder.fingerprint, config.features, maps)
    if not set(protocols).isdisjoint(STORES["cells"]):
        sources["cells"] = cells_source(maps, encoder.fingerprint)
    if "diagnosis" in protocols:
        sources["diagnosis"] = diagnosis_source(encoder, *backgrounds[clips])
    clips_at_once = min(CLIPS_AT_ONCE, resources.batch_size * clips.num_clips * clips.num_crops)
    resources = replace(resources, batch_size=clips_at_once)
    cache = subject.cache if encoder.key is not None else None
    windows = {"": clips} | {window: timed(clips, window) for window in config.other_windows}
    return {
        kind: {
            window: FeatureStore(source, own, resources, cache=cache, report=report)
            for window, own in (windows.items() if kind == "pooled" else [("", clips)])
        }
        for kind, source in sources.items()
    }
