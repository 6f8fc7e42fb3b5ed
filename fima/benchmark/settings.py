"""What `fima benchmark` measures; PyTorch is not loaded."""

from dataclasses import dataclass
from typing import Literal

from fima.config.checks import require
from fima.errors import ConfigError

Precision = Literal["fp32", "tf32", "bf16"]
"""`fp32`: exact float32; `tf32`: PyTorch's default on GPUs, convolutions in TF32; `bf16`: autocast to bfloat16."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What to measure, and for how long."""

    backbones: tuple[str, ...] = ("i3d", "r2plus1d_18")
    """Encoders to measure."""
    precisions: tuple[Precision, ...] = ()
    """fp32: exact float32; tf32: convolutions in TF32, PyTorch's default on GPUs; bf16. Default: the device's."""
    batches: tuple[int, ...] = ()
    """Videos per step. Default: 8 and 32 on a GPU, 2 on a CPU."""
    crop_size: int | None = None
    """Side of the clips of 16 frames, in pixels. None: 224 on a GPU, 112 on a CPU."""
    compile: bool = False
    """Measure compiled encoders, too; compiling takes minutes."""
    parity: bool = False
    """Compare the losses of one step on the device, in float32, with those on the CPU."""
    seconds: float = 120
    """Time limit: no measurement begins after this many seconds."""

    def __post_init__(self) -> None:
        if not self.backbones:
            raise ConfigError("--backbones: name at least one")
        smallest = min(self.batches, default=2)
        require(smallest >= 2, "batches", smallest, "must be at least 2, for batch norm")
        require(self.seconds > 0, "seconds", self.seconds, "must be greater than 0")
