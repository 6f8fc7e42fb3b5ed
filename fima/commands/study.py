"""What the demo and the benchmarks share: `fima` commands that are printed, run, and not run again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fima.commands.parse import run_command
from fima.config.checks import as_words
from fima.console import Console
from fima.evaluate.protocols import FEATURE_PROTOCOLS, PROTOCOL_VERSIONS
from fima.files.atomic import write_file

NUM_CLIPS = 3
"""Clips per video in every evaluation: first, middle and last window of the 24 frames."""

PROTOCOLS = (*FEATURE_PROTOCOLS, "foreground", "occlusion")

COLUMNS = {
    "linear_top1": "linear/top1",
    "knn_top1": "knn/top1",
    "retrieval_r1": "retrieval/R@1",
    "swapped_background_top1": "linear/swapped/top1",
    "removed_background_top1": "linear/removed/top1",
    "foreground_share": "foreground/share",
    "occlusion_share": "occlusion/share",
    "same_video": "same_video/train",
}
"""Columns of the tables, and the figures of `fima evaluate` that they show; all in percent."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to pre-train: a recipe and what is changed in it."""

    recipe: str
    """File name under `recipes/`."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Settings that differ from the recipe, by flag name."""


def run(command: str, *words: object) -> None:
    """Print a `fima` command as one would type it, and run it. Raises as it does, or SystemExit with its exit code."""
    argv = [str(word) for word in words]
    show_command(command, *argv)
    if code := run_command(command, argv):
        raise SystemExit(code)


def show_command(*words: object) -> None:
    """Print a `fima` command as one would type it."""
    Console().print(f"\n$ fima {shlex.join(map(str, words))}", style="bold", soft_wrap=True)


def pretrain_and_evaluate(
    trial: Trial, *, data: Path, out: Path, seed: int, workers: int = 2, protocols: Sequence[str] = PROTOCOLS
) -> dict[str, float]:
    """Pre-train in `out` and evaluate the last checkpoint, or read what is there; return `COLUMNS`, in percent."""
    result = result_file(out)
    checkpoint = out / "checkpoints" / "last.pt"
    flags = ["--run.seed", seed, *as_words(trial.settings), "--auto-resume"]
    run("pretrain", data, "--out", out, *flags, f"recipes/{trial.recipe}")
    if not _is_current(result, checkpoint):
        measured = ["--out", result, "--num-clips", NUM_CLIPS, "--workers", workers]
        run("evaluate", checkpoint, data, *measured, "--protocols", *protocols)
    return read_figures(result)


def _is_current(result: Path, checkpoint: Path) -> bool:
    """Whether a result is of the checkpoint, and of the protocols as they are now."""
    if not result.exists() or result.stat().st_mtime < checkpoint.stat().st_mtime:
        return False
    measured = json.loads(result.read_text(encoding="utf-8"))["protocols"]
    return all(found["version"] == PROTOCOL_VERSIONS.get(name.partition("@")[0]) for name, found in measured.items())


def result_file(run_folder: Path) -> Path:
    """Return where `fima evaluate` writes what it finds of a run's last checkpoint."""
    return run_folder / "evaluation" / "last.json"


def read_figures(result: Path) -> dict[str, float]:
    """Read the columns out of the JSON of `fima evaluate`; a figure that it does not hold is left out."""
    figures = json.loads(result.read_text(encoding="utf-8"))["figures"]
    return {column: figures[name] for column, name in COLUMNS.items() if name in figures}


def make_data(out: Path, *words: object, seed: int) -> Path:
    """Make the benchmark's videos, or reuse them, and return their folder; `words` are more flags of `make-data`."""
    run("make-data", "motion-textures", out, "--seed", seed, *words)
    return out


def write_json(path: Path, content: object) -> None:
    """Write JSON in one piece."""
    write_file(path, json.dumps(content, indent=2) + "\n")
