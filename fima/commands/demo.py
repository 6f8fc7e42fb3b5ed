"""`fima demo`: FIMA against MoCo on synthetic videos, in minutes on two cores."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.style import Style
from rich.table import Table
from rich.text import Text

from fima.commands.parse import parse
from fima.commands.study import (
    COLUMNS,
    Trial,
    make_data,
    pretrain_and_evaluate,
    read_figures,
    result_file,
    run,
    write_json,
)
from fima.console import Console
from fima.data.workers.killable_pool import available_cores
from fima.files.output import check_writable

Method = Literal["moco", "fima"]
RECIPES: Mapping[Method, str] = {"moco": "motion_textures_moco.yaml", "fima": "motion_textures_fima.yaml"}
NAMES: Mapping[Method, str] = {"moco": "MoCo", "fima": "FIMA"}
TITLES = {
    "linear_top1": "linear top-1",
    "knn_top1": "kNN top-1",
    "retrieval_r1": "retrieval R@1",
    "swapped_background_top1": "linear, other backgrounds",
    "removed_background_top1": "linear, no backgrounds",
    "foreground_share": "activation on the object",
    "occlusion_share": "what features depend on: the object",
    "same_video": "nearest clip is of the same video",
}
QUICK_SIZE = ("--num-train", 200, "--num-test", 60)
QUICK_SETTINGS: Mapping[str, object] = {
    "optim.epochs": 6,
    "data.crop_size": 48,
    "method.queue_size": 47,
    "data.workers": 0,
}
"""The queue has the paper's share of the videos. Another process that decodes would first load PyTorch for seconds."""


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Make videos whose class is the motion, pre-train MoCo and FIMA on them, and show which of the two saw the motion.

    For example: `fima demo --quick`. Every step is a `fima` command, which is printed; a second call reuses what is
    there. Both methods are trained and evaluated at once, each with half of the cores.
    """

    out: Path | None = None
    """Folder of data and runs. None: runs/demo, or runs/demo-quick."""
    seed: int = 0
    """Seed of the data and of both runs."""
    quick: bool = False
    """Fewer videos and epochs, smaller crops: 215 seconds of processor time in all, and lower figures."""
    method: Method | None = None
    """Train and evaluate this one alone, on videos that an earlier call has made."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(DemoArguments, argv, prog="fima demo")
    out = arguments.out or Path("runs", "demo-quick" if arguments.quick else "demo")
    check_writable(out, flag="out")
    seed = arguments.seed
    data = out / f"data-{seed}"
    runs = {name: out / f"{name}-{seed}" for name in RECIPES}
    if arguments.method is not None:
        trial = Trial(recipe=RECIPES[arguments.method], settings=QUICK_SETTINGS if arguments.quick else {})
        workers = 0 if arguments.quick else 2
        pretrain_and_evaluate(trial, data=data, out=runs[arguments.method], seed=seed, workers=workers)
        return 0
    start = time.monotonic()
    make_data(data, *(QUICK_SIZE if arguments.quick else ()), seed=seed)
    run("contact-sheet", data, "--out", out / "contact_sheet.png", "--split", "test", "--examples-per-class", 1)
    if code := _side_by_side(["--out", str(out), "--seed", str(seed), *(["--quick"] if arguments.quick else [])]):
        return code
    moco, fima = (folder / "checkpoints" / "last.pt" for folder in runs.values())
    for kind, name in (("both", "activation_maps"), ("occlusion", "occlusion_maps")):
        run("cam", moco, data, "--compare", fima, "--split", "test", "--map", kind, "--out", out / f"{name}.png")
    run("report", *runs.values(), "--data", data, "-o", out / "report.html")
    figures = {name: read_figures(result_file(folder)) for name, folder in runs.items()}
    seconds = round(time.monotonic() - start, 1)
    summary = {"methods": figures, "seconds": seconds, "seed": seed, "quick": arguments.quick}
    write_json(out / "summary.json", summary)
    _show(figures, out, seconds)
    return 0


def _side_by_side(words: Sequence[str]) -> int:
    """Train and evaluate both methods at once, and pass on what they say with their names in front.

    Args:
        words: flags of this command for both.

    Returns:
        The exit code of one that failed, after which the other is asked to save and stop; or of Ctrl-C, which both
        have seen; or 0.
    """
    threads = max(1, available_cores() // len(RECIPES))
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **os.environ}
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "fima", "demo", *words, "--method", name],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in RECIPES
    }

    failures: list[int] = []

    def follow(name: str, child: "subprocess.Popen[str]") -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                Console().print(f"{name} | {line.rstrip()}", highlight=False, markup=False, soft_wrap=True)
        if code := child.wait():
            failures.append(code if code > 0 else 128 - code)
            for other in children.values():
                other.terminate()

    followers = [threading.Thread(target=follow, args=item) for item in children.items()]
    for follower in followers:
        follower.start()
    # Ctrl-C reaches the children too: they save and end, and so do the followers.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for follower in followers:
        follower.join()
    signal.signal(signal.SIGINT, before)
    return failures[0] if failures else 0


def _show(figures: Mapping[Method, Mapping[str, float]], out: Path, seconds: float) -> None:
    """Print the table, a row a figure and a column a method, and where everything is; the report last."""
    console = Console()
    table = Table(title="\nDoes the encoder see the motion, or the background?  (%)", title_justify="left")
    table.add_column("")
    for name in figures:
        table.add_column(NAMES[name], justify="right")
    for column in COLUMNS:
        table.add_row(TITLES[column], *[f"{found[column]:.1f}" for found in figures.values()])
    console.print(table)
    files = {
        "summary.json": "figures",
        "contact_sheet.png": "videos",
        "activation_maps.png": "where the encoders respond",
        "occlusion_maps.png": "what their features depend on",
        "report.html": "everything on one page",
    }
    console.print(f"{seconds:.0f} s", highlight=False)
    for file, what in files.items():
        path = out / file
        # A link where the terminal shows links; elsewhere the path alone.
        shown = Text(str(path), style=Style(link=path.resolve().as_uri()))
        console.print(Text(f"{what}: ").append_text(shown), highlight=False, soft_wrap=True)
