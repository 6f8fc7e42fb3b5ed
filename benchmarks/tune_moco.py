"""The best MoCo: learning rate, temperature, key momentum, queue and epochs, one after another, on the benchmark.

Each setting is varied around the best of those before it, on data and weights of a seed that no table reports. The
choice is made by the TEST figure of that seed.
"""

import argparse
from pathlib import Path

from rich.console import Console

from fima.commands.study import COLUMNS, Trial, make_data, pretrain_and_evaluate
from tables import markdown_table

GRID: dict[str, tuple[float | int, ...]] = {
    "optim.lr": (0.003, 0.01, 0.03, 0.1),
    "method.temperature": (0.05, 0.1, 0.2),
    "method.key_momentum": (0.9, 0.99, 0.999),
    "method.queue_size": (60, 140, 280),
    "optim.epochs": (10, 25),
}
START: dict[str, float | int] = {
    "optim.lr": 0.01,
    "method.temperature": 0.1,
    "method.key_momentum": 0.99,
    "method.queue_size": 140,
    "optim.epochs": 10,
}


def main() -> None:
    """Walk through the grid and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tune_moco"), help="folder of data and runs")
    parser.add_argument("--seed", type=int, default=10, help="seed of data and runs; not one that is reported")
    parser.add_argument("--camera", default="static", choices=["static", "moving"])
    arguments = parser.parse_args()
    folder = arguments.out / f"{arguments.camera}-{arguments.seed}"
    data = make_data(folder / "data", "--camera", arguments.camera, seed=arguments.seed)
    best = dict(START)
    found: dict[str, dict[str, float]] = {}
    for name, values in GRID.items():
        scores = {}
        for value in values:
            settings = {**best, name: value}
            label = " ".join(f"{key.partition('.')[2]}={each:g}" for key, each in settings.items())
            trial = Trial(recipe="motion_textures_moco.yaml", settings=settings)
            out = folder / label.replace(" ", "-")
            found[label] = pretrain_and_evaluate(trial, data=data, out=out, seed=arguments.seed)
            scores[value] = found[label]["linear_top1"]
        best[name] = max(scores, key=lambda value: scores[value])
    rows = [[label, *(f"{figures[column]:.1f}" for column in COLUMNS)] for label, figures in found.items()]
    print(markdown_table(["MoCo", *COLUMNS], rows))
    Console().print(f"best by linear top-1 on the test split: {best}")


if __name__ == "__main__":
    main()
