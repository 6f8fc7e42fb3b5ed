"""Several official splits of one data set: their lists, and one result of all of them."""

import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fima.config import Dataset
from fima.data.datasets import list_videos
from fima.data.layouts.table import GROUP_COLUMN, read_column, table_columns
from fima.data.layouts.video_list import VideoList, counted
from fima.errors import ConfigError, DataError
from fima.evaluate.protocols import EvaluationConfig, EvaluationResult, SplitLists, SplitName
from fima.synthetic.motion_textures import has_masks, list_counterparts


def list_splits(
    root: Path,
    numbers: Sequence[int],
    *,
    dataset: Dataset = "auto",
    annotations: str | Path | None = None,
    group_by: str | None = None,
) -> dict[SplitName, SplitLists]:
    """List the training and the test videos of some splits, by the number of the split.

    Data written by `fima make-data` have two further test lists, `swapped` and `removed`. Layout and annotations are
    those of `list_videos`, what belongs together that of `find_groups`. Raises ConfigError for no split, or one twice;
    DataError as `list_videos`, or for a list without labels.
    """
    if not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--splits {' '.join(map(str, numbers)) or '(none)'}: give each split once, such as 1 2 3")
    extra_tests = list_counterparts(root) if has_masks(root) else {}
    found: dict[SplitName, SplitLists] = {}
    for number in numbers:
        train = list_videos(root, "train", number, dataset=dataset, annotations=annotations)
        test = list_videos(root, "test", number, dataset=dataset, annotations=annotations)
        groups = {**find_groups(root, train, group_by, annotations), **find_groups(root, test, group_by, annotations)}
        found[number] = SplitLists(train=train, test=test, extra_tests=extra_tests, groups=groups)
        found[number].check_labels()
    return found


def combine(results: Mapping[SplitName, EvaluationResult]) -> EvaluationResult:
    """Return one result: that of a single split as it is; of several, means and sample standard deviations.

    Folds count by their test videos, so that every video of a cross-validation counts once. The results are of the same
    encoder by the same protocols, by the number of the split or the name of the fold.
    """
    everything = list(results.values())
    first = everything[0]
    if len(everything) == 1:
        return first
    unit = "fold" if all(isinstance(name, str) for name in results) else "split"
    in_all = [name for name in first.figures if all(name in result.figures for result in everything)]
    same = {
        name: {
            key: value
            for key, value in settings.items()
            if all(result.protocols.get(name, {}).get(key) == value for result in everything)
        }
        for name, settings in first.protocols.items()
    }
    by_figure = {name: [result.figures[name] for result in everything] for name in in_all}
    # Where only maps are measured, no list of videos has features.
    tested = [result.data.get("test", {}).get("num_evaluated", 1) for result in everything]
    counts = tested if unit == "fold" else [1] * len(everything)
    return EvaluationResult(
        figures={name: fmean(values, counts) for name, values in by_figure.items()},
        chance={name: fmean((result.chance[name] for result in everything), counts) for name in in_all},
        encoder=first.encoder,
        protocols=same,
        data={f"{unit} {name}": result.data for name, result in results.items()},
        versions=first.versions,
        notes={f"{unit} {name}": own for name, result in results.items() if (own := _notes(result, same))},
        sd={name: stdev(values) for name, values in by_figure.items()},
        splits={str(name): result.figures for name, result in results.items()},
        unit=unit,
    )


def _notes(result: EvaluationResult, same: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a result says of its protocols, with those of their settings that are not the `same` in all results."""
    found = {
        name: {key: value for key, value in settings.items() if key not in same.get(name, {})}
        | result.notes.get(name, {})
        for name, settings in result.protocols.items()
    }
    return {name: notes for name, notes in found.items() if notes}


def list_folds(
    root: Path, config: EvaluationConfig, *, dataset: Dataset = "auto", annotations: str | Path | None = None
) -> dict[SplitName, SplitLists]:
    """List the training and the test videos of every fold: a video is tested in one fold, and trained on in the others.

    What the folds are is said by `cross_validation`, or by `folds` and `group_by`, of the settings. Layout and
    annotations are those of `list_videos`. Raises ConfigError for `folds` without groups; DataError as `list_videos`,
    for a missing column or one with holes, fewer than two folds, or a group in two of them.
    """
    videos = list_videos(root, "all", dataset=dataset, annotations=annotations)
    groups = find_groups(root, videos, config.group_by, annotations)
    if config.cross_validation is not None:
        fold_of = _complete(videos, read_column(root, annotations, config.cross_validation), config.cross_validation)
        groups = groups or fold_of
    elif not groups:
        raise ConfigError(
            f"--folds {config.folds}: needs --group-by, so that videos of one person stay together; "
            "'/([^/_]+)_' is the person of walk/anna_1.mp4"
        )
    else:
        fold_of = _balanced(videos, groups, config.folds or 0, config.seed)
    _check(videos, fold_of, groups)
    found: dict[SplitName, SplitLists] = {
        name: _fold(videos, fold_of, groups, name) for name in sorted(set(fold_of.values()), key=_natural)
    }
    notes = [*videos.warnings(), *_without_classes(found), *_with_folders(groups)]
    for name, lists in found.items():
        lists.check_labels()
        train, test = (replace(part, notes=notes) for part in (lists.train, lists.test))
        found[name] = replace(lists, train=train, test=test)
    return found


def _without_classes(folds: Mapping[SplitName, SplitLists]) -> list[str]:
    """Say in which folds a class has no video to train on, or none to test."""
    said = []
    for doing, done in (("train on", "test videos of it are missed"), ("test", "figures are of the other classes")):
        lists = {name: fold.train if doing == "train on" else fold.test for name, fold in folds.items()}
        absent = {
            name: [videos.classes[label] for label in sorted(set(range(len(videos.classes))) - there)]
            for name, videos in lists.items()
            if len(there := {video.label for video in videos.videos}) < len(videos.classes)
        }
        if absent:
            first, classes = next(iter(absent.items()))
            more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
            others = f" (and {counted(len(absent) - 1, 'other fold')} like it)" if len(absent) > 1 else ""
            said.append(f"fold {first}: no video to {doing} of {', '.join(classes[:5])}{more}, so its {done}{others}")
    return said


def _with_folders(groups: Mapping[Path, str]) -> list[str]:
    """Say where an expression took the folder into the group, so that a person is several groups."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path, group in groups.items():
        folder, slash, name = group.rpartition("/")
        if slash and group in path.as_posix():  # a column of a table may have its own slashes
            folders[name].add(folder)
    name, several = next(((name, found) for name, found in folders.items() if len(found) > 1), ("", set()))
    if not several:
        return []
    named = " and ".join(f"{folder}/{name}" for folder in sorted(several)[:2])
    return [f"{named} are groups of their own; if {name} is one person, let --group-by match what follows the last /"]


def find_groups(
    root: Path, videos: VideoList, group_by: str | None, annotations: str | Path | None = None
) -> dict[Path, str]:
    """Return the group of every video; nothing where neither `group_by` nor a column of the table says any.

    `group_by` is a column of the table, or a regular expression that is looked for in the path below the root: the
    group is what its first pair of brackets matches, or all of it. None: the column `group` where there is one. Raises
    ConfigError for no column and no regular expression either; DataError for a column with holes, or an expression that
    does not match every path.
    """
    column = GROUP_COLUMN if group_by is None else group_by
    if videos.table is not None and column.casefold() in table_columns(root, annotations):
        return _complete(videos, read_column(root, annotations, column), column)
    if group_by is None:
        return {}
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ConfigError(f"--group-by {group_by}: neither a column nor a regular expression ({error})") from None
    found = {}
    for video in videos.videos:
        below = video.path.is_relative_to(videos.root)
        name = video.path.relative_to(videos.root).as_posix() if below else str(video.path)
        match = pattern.search(name)
        if match is None:
            columns = ", ".join(table_columns(root, annotations))
            known = f"; its columns are {columns}" if columns else ""
            raise DataError(
                f"--group-by {group_by}: no column of a table, and as a regular expression it does not match {name}, "
                f"as it must every path{known}"
            )
        found[video.path] = match.group(1 if pattern.groups else 0) or ""
    return _complete(videos, found, group_by)


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers by their value, before words."""
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def _complete(videos: VideoList, values: Mapping[Path, str], what: str) -> dict[Path, str]:
    """The values of all videos of a list. Raises DataError where one has none."""
    found = {video.path: values.get(video.path, "") for video in videos.videos}
    holes = [path for path, value in found.items() if not value]
    if holes:
        raise DataError(f"{videos.root}: {counted(len(holes), 'video')} without a value of {what}, such as {holes[0]}")
    return found


def _balanced(videos: VideoList, groups: Mapping[Path, str], count: int, seed: int) -> dict[Path, str]:
    """Folds of whole groups with the classes spread as evenly as they allow."""
    labels = [-1 if video.label is None else video.label for video in videos.videos]
    names = [groups[video.path] for video in videos.videos]
    if len(set(names)) < max(2, count):
        raise DataError(
            f"{videos.root}: {counted(len(set(names)), 'group')} ({', '.join(sorted(set(names))[:3])}) cannot make "
            f"{count} folds"
        )
    numbers = grouped_folds(np.array(labels), names, count, seed)
    if len(np.unique(numbers)) < count:
        # Spreading the classes left a fold without videos; regardless of the classes, every fold gets some.
        numbers = grouped_folds(np.arange(len(names)), names, count, seed)
    return {video.path: str(number) for video, number in zip(videos.videos, numbers.tolist(), strict=True)}


def grouped_folds(labels: NDArray[np.int64], groups: Sequence[str], count: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each row, int64 (V,): whole groups, classes (V,) spread as evenly as they allow.

    There are `count` folds, two at least, and as many different groups. The seed decides among equally good ways.
    """
    # Loading scikit-learn takes a second, which folds of a column need not wait for.
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    folds = np.zeros(len(labels), dtype=np.int64)
    stratified = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    # With more folds than videos of any class, nothing can be spread evenly.
    splitter = stratified if count <= np.unique(labels, return_counts=True)[1].max() else GroupKFold(count)
    # A class may have fewer videos than there are folds; folds without a class are named elsewhere.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        for number, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            folds[held_out] = number
    return folds


def _check(videos: VideoList, fold_of: Mapping[Path, str], groups: Mapping[Path, str]) -> None:
    if len(set(fold_of.values())) < 2:
        raise DataError(f"{videos.root}: all videos are in one fold ({next(iter(fold_of.values()))}); two are needed")
    first: dict[str, Path] = {}
    for path, group in groups.items():
        other = first.setdefault(group, path)
        if fold_of[other] != fold_of[path]:
            raise DataError(
                f"{videos.root}: group {group} is in the folds {fold_of[other]} ({other.name}) and {fold_of[path]} "
                f"({path.name}); a group must be in one fold"
            )


def _fold(videos: VideoList, fold_of: Mapping[Path, str], groups: Mapping[Path, str], name: str) -> SplitLists:
    def part(split: str) -> VideoList:
        chosen = [video for video in videos.videos if (fold_of[video.path] == name) == (split == "test")]
        clean = replace(videos, missing=[], unlisted=[], num_listed=None, expected=None, notes=[])
        return replace(clean, videos=chosen, split=split, layout=f"{videos.layout}; fold {name}")

    return SplitLists(train=part("train"), test=part("test"), groups=dict(groups))
