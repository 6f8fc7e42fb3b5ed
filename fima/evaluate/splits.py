"""Several official splits of one data set: their lists, and one result of all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fima.config import Dataset
from fima.data.datasets import list_videos
from fima.errors import ConfigError
from fima.evaluate.folds import find_groups
from fima.evaluate.protocols import EvaluationResult, SplitLists, SplitName
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
    those of `list_videos`, what belongs together that of `find_groups`.

    Raises:
        ConfigError: no split, or one twice.
        DataError: as `list_videos`, or a list without labels.
    """
    if not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--splits {' '.join(map(str, numbers)) or '(none)'}: give each split once, such as 1 2 3")
    extra_tests = list_counterparts(root) if has_masks(root) else {}
    found: dict[SplitName, SplitLists] = {}
    for number in numbers:
        train = list_videos(root, "train", number, dataset=dataset, annotations=annotations)
        test = list_videos(root, "test", number, dataset=dataset, annotations=annotations)
        groups: dict[Path, str] = {}
        for videos in (train, test):
            groups |= find_groups(root, videos, group_by, annotations)
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
    by_figure = {name: [result.figures[name] for result in everything] for name in in_all}
    counts = [result.data["test"]["num_evaluated"] if unit == "fold" else 1 for result in everything]
    return EvaluationResult(
        figures={name: fmean(values, counts) for name, values in by_figure.items()},
        chance={name: fmean((result.chance[name] for result in everything), counts) for name in in_all},
        encoder=first.encoder,
        protocols=first.protocols,
        data=_by_name(unit, {name: result.data for name, result in results.items()}),
        versions=first.versions,
        notes=_by_name(unit, {name: result.notes for name, result in results.items() if result.notes}),
        sd={name: stdev(values) for name, values in by_figure.items()},
        splits={str(name): result.figures for name, result in results.items()},
        unit=unit,
    )


def _by_name(unit: str, parts: Mapping[SplitName, Any]) -> dict[str, Any]:
    return {f"{unit} {name}": part for name, part in parts.items()}
