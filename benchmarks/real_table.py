"""The table of videos that `real_video.py` measures on."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fima.data.layouts.rows import label_in, read_rows
from fima.errors import UserError


@dataclass(frozen=True)
class Listed:
    """The table of videos."""

    folder: Path
    paths: list[str]
    labels: list[str]
    groups: list[str]
    folds: list[str]

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """(V,) class numbers."""
        return np.unique(self.labels, return_inverse=True)[1].astype(np.int64)

    @property
    def fold_names(self) -> list[str]:
        """The folds, sorted."""
        return sorted(set(self.folds))

    def test(self, fold: str) -> npt.NDArray[np.bool_]:
        """(V,) which videos a fold tests."""
        return np.array([own == fold for own in self.folds])


def read_table(file: Path, fold_column: str) -> Listed:
    """Read the table; the folds are the values of a column. Ends the program where a figure of it would mislead."""
    try:
        content = read_rows(file)
    except UserError as error:
        raise SystemExit(str(error)) from None
    names = ("path", "label", "group", fold_column.casefold())
    if missing := [name for name in names if name not in content.columns]:
        raise SystemExit(f"{file}: no column {', '.join(missing)}; see --help")
    if content.unreadable:
        raise SystemExit(content.unreadable[0])
    folder = file.parent.resolve()
    for where, fields in content.rows:
        if label_in(fields) is None or not all(fields[name] for name in names):
            raise SystemExit(f"{where}: needs a value for each of {', '.join(names)}")
        if not (folder / fields["path"]).is_file():
            raise SystemExit(f"{where}: {fields['path']}: there is no such file")
    paths, _, groups, folds = ([fields[name] for _, fields in content.rows] for name in names)
    if len(set(paths)) < len(paths):
        raise SystemExit(f"{file}: {Counter(paths).most_common(1)[0][0]} comes more than once")
    if len(set(folds)) < 2:
        raise SystemExit(f"{file}: needs two folds or more, and has {len(set(folds))} (column {names[-1]})")
    fold_of = dict(zip(groups, folds, strict=True))
    for group, fold in zip(groups, folds, strict=True):
        if fold != fold_of[group]:
            raise SystemExit(f"{file}: group {group} is in folds {fold} and {fold_of[group]}; it must be in one")
    return Listed(folder, paths, [str(label_in(fields)) for _, fields in content.rows], groups, folds)
