"""Every setting of a pre-training run and of a fine-tuning run, with the paper's values as defaults."""

from dataclasses import dataclass, field

from fima.config.checks import require, require_least
from fima.config.classifier import ClassifierConfig, TestConfig
from fima.config.data import DataConfig, Dataset
from fima.config.method import MethodConfig
from fima.config.model import ModelConfig
from fima.config.optim import OptimConfig
from fima.config.run import RunConfig

__all__ = [
    "ClassifierConfig",
    "DataConfig",
    "Dataset",
    "FinetuneConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimConfig",
    "PretrainConfig",
    "RunConfig",
    "TestConfig",
]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One run that trains a classifier on an encoder: fine-tuning, or linear probing by SGD."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(frames=0, crop_size=0, blur=0.0))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(epochs=150, batch_size=16, schedule="step", milestones=(60, 120))
    )
    run: RunConfig = field(default_factory=RunConfig)
    test: TestConfig = field(default_factory=TestConfig)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pre-training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        require_least(self.data, "data.", frames=1, crop_size=8)
        share = self.optim.batch_size // self.optim.accumulate
        rule = f"must be at most half the {share} videos of a step, or of a part of it with --optim.accumulate"
        parts, stride = self.model.split_bn, self.method.local_stride
        require(parts == 1 or 2 * parts <= share, "model.split_bn", parts, rule)
        few = f"must leave two of the {self.data.frames} frames or more"
        require(stride == 1 or stride < self.data.frames, "method.local_stride", stride, few)
