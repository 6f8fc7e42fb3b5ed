"""Settings of the encoder that is trained on rendered people."""

from dataclasses import dataclass, fields
from typing import Any

from fima.config.checks import require, require_least


@dataclass(frozen=True, kw_only=True)
class SyntheticEncoderSettings:
    """What is rendered, and how `small` is trained on it."""

    videos: int = 24_000
    """Videos to render; each takes 1.2 MB at 112 px: of a GPU's memory, else of the disk below `--out`."""
    render_size: int = 112
    """Side of the rendered videos, in pixels."""
    frames: int = 16
    """Frames per clip."""
    crop_size: int = 80
    """Side of the clips, in pixels."""
    epochs: int = 15
    """Passes over the videos."""
    batch_size: int = 64
    """Clips per step."""
    lr: float = 0.002
    """Highest learning rate of AdamW; a warm-up leads to it, a cosine away from it."""
    weight_decay: float = 0.02
    """Of AdamW, on all weights but those of the norms and the biases."""
    seed: int = 0
    """Seed of the videos, the first weights and the clips."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        require_least(self, videos=2, frames=4, crop_size=16, epochs=1, batch_size=2, weight_decay=0, seed=0)
        most = f"must be at most --videos ({self.videos})"
        require(self.batch_size <= self.videos, "batch-size", self.batch_size, most)
        positive = self.render_size > 0 and self.render_size % 8 == 0
        require(positive, "render-size", self.render_size, "must be a multiple of 8")
        require(self.lr > 0, "lr", self.lr, "must be greater than 0")

    @property
    def num_steps(self) -> int:
        """Steps of the whole training; a last batch that is not full is left out."""
        return self.epochs * (self.videos // self.batch_size)

    def of_result(self) -> dict[str, Any]:
        """The settings by name that the result depends on: all but the device."""
        names = (each.name for each in fields(SyntheticEncoderSettings))
        return {name: getattr(self, name) for name in names if name != "device"}
