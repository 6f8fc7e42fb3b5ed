"""Several official splits of one data set: their lists, and one result of all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fima.config import Dataset
from fima.data.datasets import list_videos
from fima.errors import ConfigError
from fima.evaluate.protocols import EvaluationResult, SplitLists
from fima.synthetic.motion_textures import has_masks, list_counterparts


def list_splits(
    root: Path, numbers: Sequence[int], *, dataset: Dataset = "auto", annotations: str | Path | None = None
) -> dict[int, SplitLists]:
    """List the training and the test videos of some splits, by the number of the split.

    Data written by `fima make-data` have two further test lists, `swapped` and `removed`.

    Args:
        root: folder or table of videos.
        numbers: numbers of the splits.
        dataset: layout of the data.
        annotations: list file or folder of list files, where they lie apart from the videos.

    Raises:
        ConfigError: no split, or one twice.
        DataError: as `list_videos`, or a list without labels.
    """
    if not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--splits {' '.join(map(str, numbers)) or '(none)'}: give each split once, such as 1 2 3")
    extra_tests = list_counterparts(root) if has_masks(root) else {}
    found = {}
    for number in numbers:
        train = list_videos(root, "train", number, dataset=dataset, annotations=annotations)
        test = list_videos(root, "test", number, dataset=dataset, annotations=annotations)
        found[number] = SplitLists(train=train, test=test, extra_tests=extra_tests)
        found[number].check_labels()
    return found


def combine(results: Mapping[int, EvaluationResult]) -> EvaluationResult:
    """Return one result: that of a single split as it is; of several, means and sample standard deviations.

    Args:
        results: of the same encoder by the same protocols, by the number of the split; at least one.
    """
    everything = list(results.values())
    first = everything[0]
    if len(everything) == 1:
        return first
    in_all = [name for name in first.figures if all(name in result.figures for result in everything)]
    by_figure = {name: [result.figures[name] for result in everything] for name in in_all}
    return EvaluationResult(
        figures={name: mean(values) for name, values in by_figure.items()},
        chance={name: mean(result.chance[name] for result in everything) for name in in_all},
        encoder=first.encoder,
        protocols=first.protocols,
        data=_by_split({number: result.data for number, result in results.items()}),
        versions=first.versions,
        notes=_by_split({number: result.notes for number, result in results.items() if result.notes}),
        sd={name: stdev(values) for name, values in by_figure.items()},
        splits={str(number): result.figures for number, result in results.items()},
    )


def _by_split(parts: Mapping[int, Any]) -> dict[str, Any]:
    return {f"split {number}": part for number, part in parts.items()}
