"""Folds with names and sizes that nobody expects."""

from pathlib import Path

import numpy as np
import pytest

from tests.test_folds import PEOPLE, evaluate_rows
from tests.video_files import write_video


def test_a_fold_with_a_slash_in_its_name_keeps_no_tables_of_an_earlier_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = []
    for label, name in enumerate(("dark", "bright")):
        for number, person in enumerate(PEOPLE):
            frames = np.full((8, 32, 32, 3), 40 + 150 * label + 8 * number, dtype=np.uint8)
            write_video(tmp_path / "videos" / f"{name}_{person}.avi", frames)
            rows.append(f"{name}_{person}.avi,{name},,2024/{person}")
    for protocol in ("linear", "knn"):
        assert evaluate_rows(tmp_path / "videos", rows, protocol)[0] == 0
    tables = {path.parent.relative_to("found").as_posix(): path for path in Path("found").rglob("confusion.csv")}
    assert tables.keys() == {"knn", *(f"fold-2024%2F{person}/knn" for person in PEOPLE)}
    counts = {name: np.loadtxt(path, delimiter=",", skiprows=1, usecols=(1, 2)) for name, path in tables.items()}
    everyone = counts.pop("knn")
    assert everyone.sum() == len(rows)
    assert (everyone == sum(counts.values())).all()
