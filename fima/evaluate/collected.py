"""What was found in the videos, and the result that is computed from it in one process."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fima.checkpoints.checkpoint import versions
from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.evaluate.attentive import measure_attentive
from fima.evaluate.diagnosis import measure_diagnosis, verdict
from fima.evaluate.feature_protocols import measure
from fima.evaluate.feature_store import FeatureStore
from fima.evaluate.intervals import Tested
from fima.evaluate.measured import FeatureSets, Measured, by_figure, decoded
from fima.evaluate.protocols import ALL_FEATURE_PROTOCOLS, EvaluationConfig, EvaluationResult, SplitLists, SplitName
from fima.evaluate.report import write_class_report
from fima.evaluate.splits import combine

STORES = {"pooled": ALL_FEATURE_PROTOCOLS, "cells": ("attentive",), "diagnosis": ("diagnosis",)}
"""Which protocols look at which features."""
NO_LABELS = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What the processes found together; the rest is arithmetic."""

    splits: Mapping[SplitName, SplitLists]
    """The lists by the number of the split."""
    protocols: tuple[str, ...]
    config: EvaluationConfig
    clips: ClipSettings
    """How clips were cut out of videos."""
    described: dict[str, Any]
    """What the result says of the encoder."""
    stores: Mapping[str, FeatureStore]
    """Features of all videos, in the main process, by the names of `STORES`; those that a protocol looks at."""
    background_labels: Tensor = NO_LABELS
    """Classes of the backgrounds that the protocol `diagnosis` puts behind others."""
    measured: Mapping[SplitName, Mapping[str, Measured]] = field(default_factory=dict)
    """By split and protocol, those that do not look at features."""
    evaluated: Mapping[SplitName, Mapping[str, dict[str, Any]]] = field(default_factory=dict)
    """By split and list, what the result says of the videos of the protocol `evaluate`."""

    def result(self, reports: Path | None = None) -> EvaluationResult:
        """Compute the figures, in one process; see `result_by_video`."""
        return self.result_by_video(reports)[0]

    def result_by_video(self, reports: Path | None = None) -> tuple[EvaluationResult, Tested]:
        """Compute the figures, in one process, and what each protocol made of each test video.

        Confusion matrix and accuracies by class of each protocol that classifies go into the folder `reports`, by split
        where there are several; None writes none.
        """
        results: dict[SplitName, EvaluationResult] = {}
        tested, known = Tested(), True
        for number, lists in self.splits.items():
            measured, evaluated, paths = self._measure(number, lists)
            tested.add(number, measured, paths, lists.groups)
            known = known and bool(lists.groups)
            if reports is not None:
                unit = "fold" if isinstance(number, str) else "split"
                folder = reports / f"{unit}-{number}" if len(self.splits) > 1 else reports
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
    ) -> tuple[dict[str, Measured], dict[str, dict[str, Any]], list[str]]:
        """What was found, which videos of each list were looked at, and the paths of the test videos among them."""
        paths: list[str] = []
        found: dict[str, Measured] = {}
        evaluated = dict(self.evaluated.get(number, {}))
        for kind, store in self.stores.items():
            features = {name: store.read(videos) for name, videos in lists.all.items()}
            evaluated |= {name: decoded(each.paths, each.undecodable) for name, each in features.items()}
            paths = features["test"].paths
            tests = {name: features[name] for name in lists.tests}
            sets = FeatureSets(train=features["train"], tests=tests, videos=lists.train, groups=lists.groups)
            for name in STORES[kind]:
                if name in self.protocols:
                    found |= self._of_features(name, sets, store.resources.device)
        found |= self.measured.get(number, {})
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
        evaluated: Mapping[str, dict[str, Any]],
    ) -> EvaluationResult:
        unit = "fold" if isinstance(number, str) else "split_index"
        return EvaluationResult(
            figures=by_figure(measured, "figures"),
            chance=by_figure(measured, "chance"),
            sd=by_figure(measured, "sd"),
            encoder=self.described,
            protocols={name: found.settings for name, found in measured.items()},
            data={
                name: {**lists.all[name].describe(), unit: number, "list_hash": _list_hash(lists.all[name]), **found}
                for name, found in evaluated.items()
            },
            versions=versions(),
            notes={name: found.notes for name, found in measured.items() if found.notes},
        )


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
