"""A classifier on an encoder, and how it is tested."""

from dataclasses import dataclass
from typing import Literal

from fima.config.checks import require, require_least


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A linear layer on the pooled features of an encoder, and what of the two is trained."""

    backbone: str | None = None
    """The encoder. None: the one that the checkpoint names."""
    num_classes: int | None = None
    """Classes. None: those of the data set."""
    dropout: float = 0.7
    """Dropout before the linear layer; the paper's 0.7 for UCF101, 0.5 for HMDB51. A frozen encoder has none."""
    freeze: bool = False
    """Linear probing: only the linear layer is trained; the encoder is frozen, with its batch norm in eval mode."""
    l2_normalise: bool = False
    """L2-normalise the pooled features."""
    grid: bool = False
    """Pool the features over 2 x 2 x 2 parts of a clip, not over the whole, so that the linear layer sees where and
    when something moves."""
    low_shot: int | None = None
    """Train on only this many training videos, drawn evenly from the classes."""
    select: Literal["last", "validation", "test"] = "last"
    """Which epoch is the result: the last one; the best on held-out training videos; or the best on the TEST split, as
    in the authors' program, which inflates the result."""
    held_out_share: float = 0.1
    """Share of each class's training videos that `--classifier.select validation` holds out; whole groups where a table
    has a column `group`."""

    def __post_init__(self) -> None:
        require_least(self, "classifier.", num_classes=2, low_shot=2)
        require(0 <= self.dropout < 1, "classifier.dropout", self.dropout, "must be in [0, 1)")
        require(0 < self.held_out_share < 1, "classifier.held_out_share", self.held_out_share, "must be in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """How a classifier is tested: class scores averaged over several clips and crops of a video."""

    clips: int = 10
    """Clips per video, evenly spread over it."""
    crops: Literal[1, 3] = 1
    """Square crops per clip: the centre, or three along the longer side."""
    ori_resolution: int | None = 256
    """The crop is 0.875 of this many source pixels, as published for videos of that height (the whole short side,
    where it is smaller). None: 0.875 of each video's own short side."""
    every_epochs: int = 10
    """Test the classifier every n epochs, and after the last one."""

    def __post_init__(self) -> None:
        require_least(self, "test.", clips=1, every_epochs=1, ori_resolution=8)
