"""The table of videos that `real_video.py` measures on, and the rows of its figures."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fima.data.layouts.rows import label_in, read_rows
from fima.data.layouts.table import Places
from fima.data.layouts.video_list import relative_name
from fima.errors import UserError

COMPUTE_RATIO = 1.75
"""FIMA's passes of the encoders over a clip, per step and clip, over MoCo's: 14 forward passes' worth against 8."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    trained_by: str = ""
    """`pretrain`, `finetune` (with labels; a linear layer of its own instead of the probe), or nothing."""
    flags: tuple[str, ...] = ()
    share_of_epochs: float = 1.0
    """Epochs, as a multiple of the recipe's."""
    start: str = "random"
    """`random`, or `shipped`: the encoder that comes with the package."""
    repeated: bool = False
    """One frame of each clip is shown to the encoder again and again."""


# A weight that a recipe gives FIMA's instance loss would scale MoCo's learning rate.
FIMA, MOCO = ("--method.name", "fima"), ("--method.name", "moco", "--method.instance-weight", "1")
LIGHT = (*FIMA, "--method.cost", "light")
ROWS = {
    "fima": Row("FIMA, from scratch", "pretrain", FIMA),
    "light": Row("FIMA light, from scratch", "pretrain", LIGHT),
    "moco": Row("MoCo, from scratch, equal epochs", "pretrain", MOCO),
    "moco_compute": Row("MoCo, from scratch, equal compute", "pretrain", MOCO, COMPUTE_RATIO),
    "fima_warm": Row("FIMA, from the package's encoder", "pretrain", FIMA, start="shipped"),
    "light_warm": Row("FIMA light, from the package's encoder", "pretrain", LIGHT, start="shipped"),
    "moco_warm": Row("MoCo, from the package's encoder, equal compute", "pretrain", MOCO, COMPUTE_RATIO, "shipped"),
    "shipped": Row("the package's encoder as it is", start="shipped"),
    "shipped_still": Row("the same, one frame repeated", start="shipped", repeated=True),
    "supervised": Row("supervised, from scratch", "finetune"),
    "finetuned": Row("supervised, from the package's encoder", "finetune", start="shipped"),
    "untrained": Row("the same network, untrained"),
    "differences": Row("frame differences, no network"),
    "motion_hog": Row("motion HOG"),
    "one_frame": Row("HOG of one frame"),
}
COMPARED = (
    ("fima", "moco"),
    ("fima", "moco_compute"),
    ("fima_warm", "moco_warm"),
    ("light_warm", "moco_warm"),
    ("fima_warm", "shipped"),
    ("light_warm", "shipped"),
    ("moco_warm", "shipped"),
)


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
    paths, places = [], Places(folder, content, anywhere=True)
    for where, fields in content.rows:
        if label_in(fields) is None or not all(fields[name] for name in names):
            raise SystemExit(f"{where}: needs a value for each of {', '.join(names)}")
        try:
            path = places.find(fields["path"], where)  # `fima prepare` gives videos another extension
        except UserError as error:
            raise SystemExit(str(error)) from None
        if not path.is_file():
            raise SystemExit(f"{where}: {fields['path']}: there is no such file")
        paths.append(relative_name(path, folder))
    groups, folds = ([fields[name] for _, fields in content.rows] for name in names[2:])
    if len(set(paths)) < len(paths):
        raise SystemExit(f"{file}: {Counter(paths).most_common(1)[0][0]} comes more than once")
    if len(set(folds)) < 2:
        raise SystemExit(f"{file}: needs two folds or more, and has {len(set(folds))} (column {names[-1]})")
    fold_of = dict(zip(groups, folds, strict=True))
    for group, fold in zip(groups, folds, strict=True):
        if fold != fold_of[group]:
            raise SystemExit(f"{file}: group {group} is in folds {fold} and {fold_of[group]}; it must be in one")
    return Listed(folder, paths, [str(label_in(fields)) for _, fields in content.rows], groups, folds)
