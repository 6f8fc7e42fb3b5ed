"""Which classes are confused with which: confusion matrix and accuracy by class, as CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fima.files.atomic import write_file

CONFUSION = "confusion.csv"
PER_CLASS = "per_class.csv"


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """Count videos by true class (V,), in rows, and by the highest of scores (V, classes), in columns."""
    num_classes = scores.shape[1]
    # As the figures: of equal scores, `argmax` may take another one.
    pairs = labels * num_classes + scores.topk(1, dim=1).indices[:, 0]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """A confusion matrix."""

    name: str
    """Where it comes from."""
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    """Videos by true class (rows) and predicted class (columns)."""

    def accuracy(self, number: int) -> float | None:
        """Percentage of the videos of a class that are recognised; None where it has none."""
        total = sum(self.counts[number])
        return 100 * self.counts[number][number] / total if total else None

    def taken_for(self, number: int) -> str:
        """The class that this one is most often mistaken for, or nothing."""
        others = [0 if other == number else count for other, count in enumerate(self.counts[number])]
        return self.classes[others.index(max(others))] if max(others, default=0) else ""


def write_class_report(folder: Path, scores: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Write `confusion.csv` (a row a true class, a column a predicted one, in videos) and `per_class.csv`.

    `per_class.csv` has, for each class, its test videos, its accuracy in percent (empty without test videos), and the
    class that it is most often taken for where that is another one. Scores are (V, classes), labels (V,).
    """
    assert scores.shape[1] == len(classes), "a column of scores for each class"
    counts = confusion_matrix(scores.cpu(), labels.cpu()).tolist()
    report = ClassReport(name=folder.name, classes=classes, counts=counts)
    rows = [[name, *row] for name, row in zip(classes, counts, strict=True)]
    write_csv(folder / CONFUSION, [["true \\ predicted", *classes], *rows])
    by_class: list[list[object]] = [["class", "num_videos", "accuracy_percent", "most_often_taken_for"]]
    for number, name in enumerate(classes):
        accuracy = report.accuracy(number)
        shown = "" if accuracy is None else f"{accuracy:.2f}"
        by_class.append([name, sum(counts[number]), shown, report.taken_for(number)])
    write_csv(folder / PER_CLASS, by_class)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV in one piece: a reader finds the whole file or the one before."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_file(path, text.getvalue())
