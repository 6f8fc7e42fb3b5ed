"""Pre-training runs that take seconds: a few synthetic videos, the tiny backbone, 32 pixels, 4 frames."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fima.checkpoints.checkpoint import Run
from fima.config import DataConfig, FinetuneConfig, MethodConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig
from fima.recipe import flatten
from tests.video_files import write_ucf101_avi

SMALL_CONFIG = PretrainConfig(
    model=ModelConfig(
        backbone="tiny", projector_hidden=16, embedding_dim=8, decoder_dim=16, decoder_heads=2, decoder_layers=1
    ),
    method=MethodConfig(queue_size=4, cell_queue_size=0),
    data=DataConfig(frames=4, crop_size=32, workers=0),
    optim=OptimConfig(epochs=2, batch_size=4, lr=0.05),
    run=RunConfig(device="cpu", precision="fp32", health_epochs=1, log_steps=1, grace_seconds=600),
)


def flags_of(config: PretrainConfig | FinetuneConfig) -> list[str]:
    """Settings that are not the defaults, as words of a command line."""
    defaults = flatten(type(config)())
    words = []
    for name, value in flatten(config).items():
        if value != defaults[name]:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, values)]
    return words


SMALL_FLAGS = flags_of(SMALL_CONFIG)


def with_settings(section: str, config: PretrainConfig = SMALL_CONFIG, **values: Any) -> PretrainConfig:  # noqa: ANN401
    """The small settings with some of one section changed."""
    return replace(config, **{section: replace(getattr(config, section), **values)})


def make_videos(folder: Path, num_per_class: int = 5) -> Path:
    """Write two classes of small videos, `a` and `b`; one in five is for testing."""
    for position in range(2 * num_per_class):
        name = "ab"[position % 2]
        write_ucf101_avi(folder / name / f"{position:02d}.avi", num_frames=12, seed=position, side=40)
    return folder


def read_lines(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Lines of a JSON-lines file, of one kind or all."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if kind in (None, line.get("kind"))]


def same_state(first: Any, second: Any) -> bool:  # noqa: ANN401
    """Equality bit for bit of nested dicts, lists, tensors and numbers."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same_state, first, second))
    return bool(first == second)


def assert_same_training(first: Run, second: Run) -> None:
    """What two checkpoints resume with is the same bit for bit."""
    for name in ("progress", "model", "optimizer", *(["selection"] if hasattr(first, "selection") else [])):
        assert same_state(getattr(first, name), getattr(second, name)), name
