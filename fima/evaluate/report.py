"""Which classes are confused with which: confusion matrix and accuracy by class, as CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fima.files.atomic import write_file

CONFUSION = "confusion.csv"
PER_CLASS = "per_class.csv"


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """Count videos by true class (V,), in rows, and by the highest of scores (V, classes), in columns."""
    num_classes = scores.shape[1]
    pairs = labels * num_classes + scores.argmax(dim=1)
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def write_class_report(folder: Path, scores: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Write `confusion.csv` (a row a true class, a column a predicted one, in videos) and `per_class.csv`.

    `per_class.csv` has, for each class, its test videos, its accuracy in percent (empty without test videos), and the
    class that it is most often taken for where that is another one. Scores are (V, classes), labels (V,); the folder is
    made where it is missing.
    """
    assert scores.shape[1] == len(classes), "a column of scores for each class"
    counts = confusion_matrix(scores.cpu(), labels.cpu())
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(
        folder / CONFUSION,
        [["true \\ predicted", *classes], *([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))],
    )
    _write_rows(
        folder / PER_CLASS,
        [
            ["class", "num_videos", "accuracy_percent", "most_often_taken_for"],
            *(_class_row(number, counts[number], classes) for number in range(len(classes))),
        ],
    )


def _class_row(number: int, predicted: Tensor, classes: Sequence[str]) -> list[str | int]:
    num_videos, num_right = int(predicted.sum()), int(predicted[number])
    if not num_videos:
        return [classes[number], 0, "", ""]
    others = predicted.clone()
    others[number] = 0
    taken_for = classes[int(others.argmax())] if int(others.max()) else ""
    return [classes[number], num_videos, f"{100 * num_right / num_videos:.2f}", taken_for]


def _write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV in one piece: a reader finds the whole file or the one before."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_file(path, text.getvalue())
