"""What a warm start is worth on motion textures: the health check's kNN by epoch, from the weights of `small`
and from random ones.

The two runs of a seed have the same videos, in the same order, and the same settings: FIMA light with `small`. A run
that was ended goes on where it stopped.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

from fima.commands.study import Trial, make_data, run
from fima.config.checks import as_words
from tables import markdown_table

RECIPE = "motion_textures_fima.yaml"
STARTS: dict[str, dict[str, object]] = {
    "warm start": {"model.init_from": "small"},
    "random weights": {},
}


def knn_by_epoch(trial: Trial, *, data: Path, out: Path, seed: int) -> list[float]:
    """Pre-train, or read what is there already; kNN accuracy after each epoch, in percent."""
    flags = ["--run.seed", seed, *as_words(trial.settings), "--auto-resume"]
    run("pretrain", data, "--out", out, *flags, f"recipes/{trial.recipe}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [100 * line["knn_accuracy"] for line in lines if line["kind"] == "health"]


def cell(values: list[float]) -> str:
    """Mean and range over the seeds."""
    return f"{mean(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main() -> None:
    """Train both for every seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/warm_start"), help="folder of data and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of data and runs")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--videos", type=int, default=120)
    arguments = parser.parse_args()
    common = {
        "model.backbone": "small",
        "method.cost": "light",
        "run.health_epochs": 1,
        "optim.epochs": arguments.epochs,
    }
    found: dict[str, list[list[float]]] = {name: [] for name in STARTS}
    for seed in arguments.seeds:
        folder = arguments.out / str(seed)
        data = make_data(folder / "data", "--num-train", arguments.videos, "--num-test", 1, seed=seed)
        for name, start in STARTS.items():
            trial = Trial(recipe=RECIPE, settings={**common, **start})
            out = folder / name.replace(" ", "-")
            found[name].append(knn_by_epoch(trial, data=data, out=out, seed=seed))
    epochs = [f"epoch {epoch}" for epoch in range(1, arguments.epochs + 1)]
    rows = [[name, *(cell(list(each)) for each in zip(*runs, strict=True))] for name, runs in found.items()]
    print(markdown_table(["kNN, %", *epochs], rows))


if __name__ == "__main__":
    main()
