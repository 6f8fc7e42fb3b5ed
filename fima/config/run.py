"""The machine, the clock and the records of a run."""

from dataclasses import dataclass
from typing import Literal

from fima.config.checks import require, require_least


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The machine, the clock and the records of a run."""

    seed: int = 0
    """Seed of every random choice."""
    deterministic: bool = False
    """Two runs give the same bits on a GPU too, where it has deterministic operations; slower there."""
    device: str = "auto"
    """`auto` uses a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16` runs the networks under autocast; the losses stay in float32. `auto` takes it where the device computes in
    bfloat16 (GPUs since 2020; CPUs with AVX512-BF16 or AMX), else `fp32`."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How tensors lie in memory. `channels_last` is faster, but in float32 on a CPU batch norm then rounds more
    (docs/performance.md). `auto` is `contiguous` in float32 on a CPU, else `channels_last`."""
    checkpoint_epochs: int = 10
    """Keep a numbered checkpoint every n epochs, besides `last.pt` after each."""
    checkpoint_minutes: float = 15.0
    """Also write `last.pt` within an epoch every n minutes; 0: only after each epoch."""
    keep_last: int = 2
    """Number of latest checkpoints to keep: `last.pt`, `last-1.pt` before it, …"""
    health_epochs: int = 5
    """Measure the health of the representation every n epochs; 0 switches it off."""
    health_videos: int = 256
    """Most videos that the health check uses; --data.held-out-share says which ones."""
    on_collapse: Literal["warn", "stop", "rollback"] = "warn"
    """When the representation collapses: warn and go on; stop with exit code 3; or go back to the last healthy
    checkpoint with 0.3 times the learning rate, three times at most (docs/reliability.md). For `fima pretrain`."""
    probe: str | None = None
    """Labelled folder of videos whose kNN accuracy chooses `best.pt`, at each health check. None: that of the health
    check's own videos, where these have labels; see --data.held-out-share. For `fima pretrain`."""
    picture_epochs: int = 5
    """Write crops, activation maps and embeddings to TensorBoard every n epochs; 0 switches it off."""
    log_steps: int = 10
    """Write a line to `metrics.jsonl` every n steps."""
    timeout_minutes: float = 30.0
    """Minutes after which a process gives up waiting for the others."""
    grace_seconds: float = 3.0
    """Seconds that the run has after SIGTERM, beside the time of a step, to finish its step and save; then it ends.
    0: as long as it takes."""

    def __post_init__(self) -> None:
        require_least(self, "run.", seed=0, checkpoint_epochs=1, checkpoint_minutes=0, keep_last=1, log_steps=1)
        require_least(self, "run.", health_epochs=0, health_videos=1, picture_epochs=0, grace_seconds=0)
        require(self.timeout_minutes > 0, "run.timeout_minutes", self.timeout_minutes, "must be greater than 0")
        rule = "needs --run.health-epochs, which says what is healthy"
        require(self.on_collapse != "rollback" or self.health_epochs > 0, "run.on_collapse", "rollback", rule)
