"""FIMA, its ablations, MoCo and points of reference on the motion-texture benchmark: `make bench`.

Trains every row for every seed and camera, reusing what is there, and prints one table a camera: mean ± standard
deviation over the seeds, in percent. Rows and seeds can be chosen, and a later call adds to an earlier one.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import torch
from rich.console import Console

from fima.commands.study import (
    COLUMNS,
    NUM_CLIPS,
    Trial,
    make_data,
    pretrain_and_evaluate,
    read_figures,
    run,
    write_json,
)
from fima.config.method import LIGHT
from fima.data.eval_clips import ClipSettings
from fima.evaluate.evaluate import collect
from fima.evaluate.features import raw_difference_features
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.loaded_model import Subject
from fima.evaluate.protocols import EvaluationConfig
from fima.evaluate.splits import list_splits
from fima.recipe import RECIPES, read_recipe
from tables import markdown_table

FIMA, MOCO = "motion_textures_fima.yaml", "motion_textures_moco.yaml"
SUPERVISED = "motion_textures_supervised.yaml"
EVERY_FRAME, EVERY_FOURTH = (
    {f"method.{name}": value for name, value in LIGHT.items()} | {"method.local_stride": stride} for stride in (1, 4)
)
NO_COLOURS = {"data.grayscale": 0, "data.jitter": 0, "data.blur": 0}
UNTRAINED: dict[str, object] = {"optim.lr": 0, "optim.epochs": 1}
SMALL: dict[str, object] = {"model.backbone": "small"}
TRIALS = {
    "FIMA": Trial(recipe=FIMA),
    "MoCo, equal epochs": Trial(recipe=MOCO),
    # A FIMA step of this encoder takes about two and a half times as long as a MoCo step.
    "MoCo, equal compute": Trial(recipe=MOCO, settings={"optim.epochs": 25}),
    "MoCo, equal compute, key momentum 0.9": Trial(
        recipe=MOCO, settings={"optim.epochs": 25, "method.key_momentum": 0.9, "method.queue_size": 280}
    ),
    "FIMA light": Trial(recipe=FIMA, settings={"method.cost": "light"}),
    "FIMA light, all frames": Trial(recipe=FIMA, settings=EVERY_FRAME),
    "FIMA light, every fourth frame": Trial(recipe=FIMA, settings=EVERY_FOURTH),
    "FIMA without the cell loss": Trial(recipe=FIMA, settings={"method.cell_weight": 0}),
    "FIMA without the frame loss": Trial(recipe=FIMA, settings={"method.frame_weight": 0}),
    "FIMA without the decoder": Trial(recipe=FIMA, settings={"method.decoder": False}),
    "FIMA without foreground sampling": Trial(recipe=FIMA, settings={"method.foreground": False}),
    "FIMA without the instance loss": Trial(recipe=FIMA, settings={"method.instance_weight": 0}),
    "FIMA with instance weight 1": Trial(recipe=FIMA, settings={"method.instance_weight": 1}),
    "FIMA without colour augmentation": Trial(recipe=FIMA, settings=NO_COLOURS),
    "MoCo without colour augmentation": Trial(recipe=MOCO, settings=NO_COLOURS),
    # A learning rate of 0 leaves the random weights alone, while batch norm sees the data.
    "untrained": Trial(recipe=MOCO, settings=UNTRAINED),
    # An encoder that is shown the motion alone.
    "FIMA, small": Trial(recipe=FIMA, settings=SMALL),
    "MoCo, small": Trial(recipe=MOCO, settings=SMALL),
    "untrained, small": Trial(recipe=MOCO, settings={**SMALL, **UNTRAINED}),
}


def raw_differences(data: Path, out: Path, seed: int) -> dict[str, float]:
    """Evaluate pooled raw frame differences, without any network."""
    config = EvaluationConfig(num_clips=NUM_CLIPS, seed=seed, workers=1)
    settings = read_recipe(RECIPES / FIMA).data
    clips = ClipSettings(frames=settings.frames, crop_size=settings.crop_size, num_clips=NUM_CLIPS)

    def network(pixels: torch.Tensor) -> torch.Tensor:
        return raw_difference_features((255 * pixels).round().to(torch.uint8))

    encoder = FrozenEncoder(name="pooled raw frame differences", network=network, mean=(0, 0, 0), std=(1, 1, 1))
    subject = Subject(encoder=encoder, clips=clips, has_maps=False)
    (collected,) = collect([subject], list_splits(data, [1]), config, device=torch.device("cpu"))
    collected.result()[0].save(out / "result.json")
    return read_figures(out / "result.json")


def supervised(data: Path, out: Path, seed: int) -> dict[str, float]:
    """Train the same encoder with the labels, on the same crops, and classify the test videos."""
    folder = out / "run"
    resume = ["--resume"] if (folder / "config.yaml").exists() else []
    run("finetune", "scratch", data, "--out", folder, "--run.seed", seed, *resume, RECIPES / SUPERVISED)
    checkpoint, measured = folder / "checkpoints" / "last.pt", folder / "evaluation.json"
    run("evaluate", checkpoint, data, "--out", measured, "--num-clips", NUM_CLIPS, "--workers", 1)
    found = json.loads(measured.read_text())["figures"]
    figures = {name.replace("evaluate", "linear"): value for name, value in found.items()}
    write_json(out / "result.json", {"figures": figures})
    return read_figures(out / "result.json")


REFERENCES: dict[str, Callable[[Path, Path, int], dict[str, float]]] = {
    "raw frame differences": raw_differences,
    "supervised": supervised,
}


def row_figures(row: str, *, data: Path, out: Path, seed: int) -> dict[str, float]:
    """Train and evaluate one row for one seed, or read what is there."""
    folder = out / row.replace(", ", "-").replace(" ", "-").lower()
    if row in TRIALS:
        return pretrain_and_evaluate(TRIALS[row], data=data, out=folder, seed=seed)
    if (folder / "result.json").exists():
        return read_figures(folder / "result.json")
    Console().print(f"\n{row}, seed {seed}", style="bold")
    return REFERENCES[row](data, folder, seed)


def cell(values: list[float]) -> str:
    """Format the mean over the seeds, with the standard deviation where there are several."""
    if not values:
        return ""
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def main() -> None:
    """Run the chosen rows and print the tables."""
    rows = [*TRIALS, *REFERENCES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/motion_textures"), help="folder of data and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of data and runs")
    parser.add_argument("--cameras", nargs="+", default=["static", "moving"], choices=["static", "moving"])
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows, metavar="ROW", help=", ".join(rows))
    arguments = parser.parse_args()
    for camera in arguments.cameras:
        figures: dict[str, list[dict[str, float]]] = {row: [] for row in arguments.rows}
        for seed in arguments.seeds:
            folder = arguments.out / f"{camera}-{seed}"
            data = make_data(folder / "data", "--camera", camera, seed=seed)
            for row in arguments.rows:
                figures[row].append(row_figures(row, data=data, out=folder, seed=seed))
        table = markdown_table(
            [f"{camera} camera", *(column.replace("_", " ") for column in COLUMNS)],
            [
                [row, *(cell([each[column] for each in found if column in each]) for column in COLUMNS)]
                for row, found in figures.items()
            ],
        )
        (arguments.out / f"table-{camera}.md").write_text(table + "\n")
        write_json(arguments.out / f"table-{camera}.json", {"seeds": arguments.seeds, "rows": figures})
        print(f"\n{table}\n")


if __name__ == "__main__":
    main()
