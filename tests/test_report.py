import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fima.evaluate.metrics import top_k_hits
from fima.evaluate.report import confusion_matrix, write_class_report

CLASSES = ["Clean, and Jerk", 'A "quoted" one', "Übung", "never tested"]
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTED = [0, 1, 1, 1, 1, 3]


def scores() -> Tensor:
    found = torch.zeros(6, 4, dtype=torch.float64)
    found[range(6), PREDICTED] = 1
    return found


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_confusion_matrix_against_a_loop() -> None:
    found, labels = torch.randn(60, 5), torch.randint(5, (60,))
    counts = confusion_matrix(found, labels)
    for true in range(5):
        for taken_for in range(5):
            pairs = zip(labels.tolist(), found.argmax(dim=1).tolist(), strict=True)
            assert counts[true, taken_for] == sum(pair == (true, taken_for) for pair in pairs)


def test_confusion_matrix_is_that_of_the_figure_where_scores_are_equal() -> None:
    """Votes of equally near videos are: of 60 rows of 9 scores, most have two highest ones."""
    found = torch.randint(3, (60, 9), generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(60) % 9
    counts = confusion_matrix(found, labels)
    assert counts.diagonal().sum() == top_k_hits(found, labels, 1).sum()


def test_files_keep_the_names_of_the_classes(tmp_path: Path) -> None:
    write_class_report(tmp_path / "new" / "linear", scores(), LABELS, CLASSES)
    header, *rows = read(tmp_path / "new" / "linear" / "confusion.csv")
    assert header[1:] == [row[0] for row in rows] == CLASSES
    assert [[int(count) for count in row[1:]] for row in rows] == [
        [1, 2, 0, 0],
        [0, 2, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]


def test_accuracy_by_class(tmp_path: Path) -> None:
    for _ in range(2):  # a second report replaces the first
        write_class_report(tmp_path, scores(), LABELS, CLASSES)
    _, *rows = read(tmp_path / "per_class.csv")
    assert rows == [
        ["Clean, and Jerk", "3", "33.33", 'A "quoted" one'],
        ['A "quoted" one', "2", "100.00", ""],
        ["Übung", "1", "0.00", "never tested"],
        ["never tested", "0", "", ""],
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.csv", "per_class.csv"]


def test_scores_without_a_column_for_each_class_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write_class_report(tmp_path, scores()[:, :3], LABELS, CLASSES)
