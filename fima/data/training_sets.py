"""The videos that the settings of a run choose: of one set, or of several with weights."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

from fima.config import DataConfig
from fima.data.clip_overrides import with_clips
from fima.data.datasets import Split, Video, VideoList, list_videos
from fima.data.epoch_plan import EpochPlan
from fima.data.layouts.table import read_groups
from fima.data.layouts.video_list import PackedVideos, counted
from fima.data.quarantine import exclude
from fima.data.subsets import hold_out
from fima.errors import ConfigError

OPTION = re.compile(r"(stride|fps|span|frame-rate)=([^-]+)(?:-([^-]+))?")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|[+-]?inf", re.IGNORECASE)
ONE_FOLDER = ("dataset", "annotations")
"""Settings that say how one folder is to be read."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """One set of videos."""

    root: Path
    """Its folder, or a table."""
    weight: float = 1.0
    """How often its videos come, compared with those of other sets."""
    timing: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `data` for the timing of its clips, instead of those of the run."""


def training_set(word: str) -> TrainingSet:
    """Read `PATH`, `PATH:WEIGHT`, `PATH@fps=12.5` or `PATH:WEIGHT@fps=12.5`; what exists is a path as it stands.

    Raises ConfigError for a weight that is not greater than 0, or a timing that is none.
    """
    before, _, option = word.rpartition("@")
    if before and "=" in option and not Path(word).exists():
        found = training_set(before)
        timing = {**found.timing, **_timing(word, option)}
        try:
            with_clips(DataConfig(), timing)
        except ConfigError as error:
            raise ConfigError(f"{word}: {error}") from None
        return replace(found, timing=timing)
    path, _, number = word.rpartition(":")
    if not path or not NUMBER.fullmatch(number) or Path(word).exists():
        return TrainingSet(root=Path(word))
    weight = float(number)
    if not 0 < weight < math.inf:
        raise ConfigError(f"{word}: a weight must be greater than 0; give another one, or leave the set out")
    return TrainingSet(root=Path(path), weight=weight)


def _timing(word: str, option: str) -> dict[str, Any]:
    """What the end of a word says of timing, such as `span=0.7-1`. Raises ConfigError."""
    given = OPTION.fullmatch(option)
    numbers = [] if given is None else [number for number in given.groups()[1:] if number is not None]
    is_range = len(numbers) > 1
    if given is None or not all(map(NUMBER.fullmatch, numbers)) or (is_range and given[1] != "span"):
        raise ConfigError(f"{word}: after @ goes stride=2, fps=12.5, span=0.8, span=0.7-1 or frame-rate=25")
    low, high = float(numbers[0]), float(numbers[-1])
    if not 0 < low < math.inf:
        raise ConfigError(f"{word}: {given[1]} must be greater than 0; leave it out for the timing of the run")
    return {given[1].replace("-", "_"): (low, high) if given[1] == "span" else low}


def chosen_videos(root: Path, settings: DataConfig, split: Split, others: Sequence[Path] = ()) -> VideoList:
    """List one split of the data of a run, without the videos that `data.exclude` names, here or in other sets.

    The list has no object per video, so that the processes that decode share its memory. Raises DataError as
    `list_videos` and `exclude`.
    """

    def listed(part: Split, folder: Path = root) -> VideoList:
        return list_videos(folder, part, settings.split, dataset=settings.dataset, annotations=settings.annotations)

    videos = listed(split)
    if settings.exclude is not None:
        libraries = [partial(listed, "all", folder) for folder in dict.fromkeys((root, *others))]
        videos = exclude(videos, Path(settings.exclude), libraries=libraries)
    return replace(videos, videos=PackedVideos(videos.videos))


def training_videos(sets: Sequence[TrainingSet], settings: DataConfig, seed: int = 0) -> VideoList:
    """List the training videos of one or several sets as one, each read in its own layout.

    The settings say the part and number of the split, excluded and held-out videos, and how the sets are mixed; which
    videos of each are held out follows from the seed. Videos are in the order of the sets, classes named `SET/CLASS`;
    of a single set, its list comes as it is. Raises DataError as `list_videos` and `hold_out`, and ConfigError for a
    setting that goes with a single set, a set that is given twice, or a weight that is too small.
    """
    for name in ONE_FOLDER if len(sets) > 1 else ():
        if getattr(settings, name) != getattr(DataConfig(), name):
            raise ConfigError(
                f"--data.{name} {getattr(settings, name)}: goes with one folder, and {len(sets)} are given; write a "
                "table of videos for a set that is not recognised by itself"
            )
    roots = [each.root for each in sets]
    lists = [
        chosen_videos(root, settings, settings.part, [other for other in roots if other != root]) for root in roots
    ]
    if not settings.held_out_share:
        return _as_one(sets, lists, settings)
    listed = zip(lists, roots, strict=True)
    groups = [read_groups(each, root, settings.annotations) for each, root in listed]
    share = settings.held_out_share
    parts = zip(*(hold_out(each, share, seed, own) for each, own in zip(lists, groups, strict=True)), strict=True)
    kept, held_out = ([replace(each, videos=PackedVideos(each.videos)) for each in part] for part in parts)
    found = _as_one(sets, kept, settings)
    # Of few videos, a weight may leave no sample of an epoch; these are in none.
    return replace(found, held_out=_as_one([replace(each, weight=1.0) for each in sets], held_out, settings))


def _as_one(sets: Sequence[TrainingSet], lists: Sequence[VideoList], settings: DataConfig) -> VideoList:
    if len(lists) == 1:
        if sets[0].weight != 1:
            raise ConfigError(f"{sets[0].root}:{sets[0].weight:g}: a weight compares several sets; leave it out")
        if sets[0].timing:
            name = next(iter(sets[0].timing)).replace("_", "-")
            raise ConfigError(f"{sets[0].root}@{name}=: is for one of several sets; give --data.{name} instead")
        return lists[0]
    names = _names([each.root for each in sets])
    classes: list[str] = []
    videos: list[Video] = []
    parts: list[str] = []
    for name, listed, each in zip(names, lists, sets, strict=True):
        offset = len(classes)
        videos += (Video(v.path, None if v.label is None else v.label + offset) for v in listed.videos)
        classes += [f"{name}/{label}" for label in listed.classes]
        timing = "".join(f", {setting.replace('_', ' ')} {value}" for setting, value in each.timing.items())
        size = counted(len(listed.videos), "video")
        parts.append(f"{name} ({listed.layout}, {size}, weight {each.weight:g}{timing})")
    sizes = [len(listed.videos) for listed in lists]
    plan = EpochPlan.of_sets(sizes, names).mixed([each.weight for each in sets], settings.mixing)
    if any(each.timing for each in sets):
        plan = replace(plan, timings=tuple(each.timing for each in sets))
        plan.settings(settings)
    return VideoList(
        videos=PackedVideos(videos),
        classes=classes,
        root=Path(os.path.commonpath([os.path.abspath(listed.root) for listed in lists])),  # noqa: PTH100 - links stay
        split=settings.part,
        layout=f"{len(sets)} sets, {settings.mixing}: {', '.join(parts)}",
        notes=list(dict.fromkeys(chain.from_iterable(listed.warnings() for listed in lists))),
        plan=plan,
    )


def _names(roots: Sequence[Path]) -> list[str]:
    """What sets are called: their folders, or as much of their paths as tells them apart."""
    paths = [Path(os.path.abspath(root)) for root in roots]  # noqa: PTH100 - links stay
    twice = next((roots[place] for place, path in enumerate(paths) if path in paths[:place]), None)
    if twice is not None:
        raise ConfigError(f"{twice}: given twice; give it once, with a weight ({twice}:2)")
    by_length = (["/".join(path.parts[-length:]) for path in paths] for length in count(1))
    return next(names for names in by_length if len(set(names)) == len(names))
