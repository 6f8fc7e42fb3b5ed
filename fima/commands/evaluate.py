"""`fima evaluate`: measure a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from fima.commands.parse import parse
from fima.data.datasets import list_videos
from fima.data.motion_textures import has_masks, list_swapped, load_mask
from fima.engine.checkpoint import load_encoder
from fima.engine.setup import choose_device
from fima.evaluation.protocols import EvaluationConfig, EvaluationResult, evaluate


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure the encoder of a checkpoint on a labelled folder of videos, with its weights frozen."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint of `fima pretrain`."""
    data: tyro.conf.Positional[Path]
    """Folder of videos with classes and a train/test split."""
    out: Path | None = None
    """The JSON to write. None: `evaluation/<checkpoint>.json` in the folder of the run."""
    split_index: int = 1
    """Number of the official split, for UCF101."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; or `cpu`, `cuda`, `cuda:1`, …"""
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(EvaluateArguments, argv, prog="fima evaluate")
    device = choose_device(arguments.device, flag="device")
    loaded = load_encoder(arguments.checkpoint, device=device)
    folder = evaluation_folder(arguments.checkpoint)
    result = evaluate(
        loaded,
        train=list_videos(arguments.data, "train", arguments.split_index),
        test=list_videos(arguments.data, "test", arguments.split_index),
        extra_tests={"swapped": list_swapped(arguments.data)} if has_masks(arguments.data) else {},
        load_mask=load_mask if has_masks(arguments.data) else None,
        config=arguments.config,
        device=device,
        cache=folder / "cache",
    )
    out = arguments.out or folder / f"{arguments.checkpoint.stem}.json"
    result.save(out)
    Console().print(_table(result, f"{arguments.checkpoint} · {loaded.description}"))
    print(f"wrote {out}")
    return 0


def evaluation_folder(checkpoint: Path) -> Path:
    """Return where results of a checkpoint go: in the folder of its run, or beside a checkpoint that lies alone."""
    folder = checkpoint.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / "evaluation"


def _table(result: EvaluationResult, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("%", justify="right")
    table.add_column("chance", justify="right")
    for name, value in result.figures.items():
        table.add_row(name, f"{value:.1f}", f"{result.chance[name]:.1f}" if name in result.chance else "")
    return table
