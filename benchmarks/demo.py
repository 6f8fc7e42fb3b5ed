"""FIMA against MoCo on made videos, in minutes on two cores: the job of `make demo`.

Every step is a `fima` command, printed before it runs; a second run reuses what is there.
"""

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from study import COLUMNS, Trial, make_data, pretrain_and_evaluate, run, write_json

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
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed
    start = time.monotonic()
    data = make_data(out / f"data-{seed}", camera="static", seed=seed)
    run("contact-sheet", data, "--out", out / "contact_sheet.png", "--split", "test", "--examples-per-class", 1)
    runs = {name: out / f"{name}-{seed}" for name in METHODS}
    figures = {
        name: pretrain_and_evaluate(trial, data=data, out=runs[name], seed=seed) for name, trial in METHODS.items()
    }
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
