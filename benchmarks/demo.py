"""FIMA against MoCo on made videos, in minutes on two cores: the job of `make demo`.

Every step is a `fima` command, printed before it runs; a second run reuses what is there. Both methods are trained and
evaluated at once, each by a process with half of the cores: so small an encoder gains little from more threads.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fima.data.workers.killable_pool import available_cores
from study import COLUMNS, Trial, make_data, pretrain_and_evaluate, read_figures, result_file, run, write_json

METHODS = {"moco": Trial(recipe="motion_textures_moco.yaml"), "fima": Trial(recipe="motion_textures_fima.yaml")}
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


def main() -> None:
    """Make data, pre-train both methods, evaluate them, and show the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the data and the runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and of both runs")
    parser.add_argument("--method", choices=METHODS, help="train and evaluate this one alone, on data that are there")
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed
    data = out / f"data-{seed}"
    runs = {name: out / f"{name}-{seed}" for name in METHODS}
    if arguments.method is not None:
        pretrain_and_evaluate(METHODS[arguments.method], data=data, out=runs[arguments.method], seed=seed)
        return
    start = time.monotonic()
    make_data(data, camera="static", seed=seed)
    run("contact-sheet", data, "--out", out / "contact_sheet.png", "--split", "test", "--examples-per-class", 1)
    side_by_side(out, seed)
    figures = {name: read_figures(result_file(folder)) for name, folder in runs.items()}
    moco, fima = (runs[name] / "checkpoints" / "last.pt" for name in ("moco", "fima"))
    for kind, name in (("both", "activation_maps"), ("occlusion", "occlusion_maps")):
        run("cam", moco, data, "--compare", fima, "--split", "test", "--map", kind, "--out", out / f"{name}.png")
    run("report", *runs.values(), "--data", data, "-o", out / "report.html")
    summary = {"methods": figures, "seconds": round(time.monotonic() - start, 1), "seed": seed}
    write_json(out / "summary.json", summary)
    show(figures)
    Console().print(
        f"{summary['seconds']} s · figures {out}/summary.json · videos {out}/contact_sheet.png · "
        f"where the encoders respond {out}/activation_maps.png · what their features depend on "
        f"{out}/occlusion_maps.png · everything on one page {out}/report.html",
        highlight=False,
    )


def side_by_side(out: Path, seed: int) -> None:
    """Train and evaluate both methods at once, and pass on what they say with their names in front.

    Raises:
        SystemExit: one of them failed, and the other was asked to save and stop; or Ctrl-C, which both have seen.
    """
    threads = max(1, available_cores() // len(METHODS))
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **os.environ}
    children = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--out", str(out), "--seed", str(seed), "--method", name],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in METHODS
    }

    def follow(name: str, child: "subprocess.Popen[str]") -> None:
        assert child.stdout is not None
        for line in child.stdout:
            Console().print(f"{name} | {line.rstrip()}", highlight=False, markup=False, soft_wrap=True)
        if child.wait():
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
    if code := next((child.returncode for child in children.values() if child.returncode), 0):
        raise SystemExit(code)


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print the table: a row a figure, a column a method."""
    table = Table(title="\nDoes the encoder see the motion, or the background?  (%)", title_justify="left")
    table.add_column("")
    for name in figures:
        table.add_column({"moco": "MoCo", "fima": "FIMA"}[name], justify="right")
    for column in COLUMNS:
        table.add_row(TITLES[column], *[f"{found[column]:.1f}" for found in figures.values()])
    Console().print(table)


if __name__ == "__main__":
    main()
