"""FIMA, MoCo and what they must beat on real, labelled video: frozen features, people apart.

    python benchmarks/real_video.py VIDEOS.csv --out runs/real

`VIDEOS.csv` has the columns `path` (relative to it), `label`, `group` (the person, say) and `fold`; no group is in two
folds. For every fold, encoders are pre-trained on the videos of the other folds, without their labels; a probe is
fitted on the features of these videos, with its strength chosen on held-out groups among them, and tested on the fold.
Every video is tested once a seed. Intervals are of the mean over the groups (bootstrap, 95 %).

What is done is not done again: stop it at any time, and repeat the command. `--jobs` runs several trainings at once.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
METRICS = ("linear", "knn", "r1")
NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    command: str = "pretrain"
    """The `fima` command that trains it; none where nothing is trained."""
    settings: tuple[str, ...] = ()
    """Flags after those of the recipe."""
    share_of_epochs: float = 1.0
    """Epochs, as a multiple of the recipe's."""
    features: str = "network"


ROWS = {
    "fima": Row("FIMA"),
    "light": Row("FIMA light", settings=("--method.cost", "light")),
    "moco": Row("MoCo, equal epochs", settings=("--method.name", "moco")),
    "moco_compute": Row("MoCo, equal compute", settings=("--method.name", "moco"), share_of_epochs=3.4),
    "repeated": Row("FIMA, one frame repeated", features="repeated"),
    "supervised": Row("supervised from scratch", command="finetune"),
    "untrained": Row("untrained", command=""),
    "motion_hog": Row("motion HOG", command="", features="motion_hog"),
    "one_frame": Row("HOG of one frame", command="", features="frame_hog"),
}


@dataclass(frozen=True)
class Listed:
    """The table of videos."""

    file: Path
    paths: list[str]
    labels: npt.NDArray[np.int64]
    groups: list[str]
    folds: list[str]
    classes: list[str]

    def test(self, fold: str) -> npt.NDArray[np.bool_]:
        """Which videos a fold tests."""
        return np.array([own == fold for own in self.folds])
