"""FIMA, MoCo and what they must beat on real, labelled video: frozen features, people apart.

    python benchmarks/real_video.py VIDEOS.csv --out runs/real

`VIDEOS.csv` has the columns `path` (relative to it), `label`, `group` (the person, say) and `fold`; no group is in two
folds. For every fold, encoders are pre-trained on the videos of the other folds, without their labels. A linear probe
is fitted on the features of these videos; its strength, and the window of the clips (as in training, or consecutive
frames), are chosen on held-out groups among them. It is tested on the fold, so every video is tested once a seed. The
supervised rows train encoder and linear layer with the labels of the other folds, by `recipes/small_finetune.yaml`.
Intervals are of the mean over the videos, by bootstrap over six groups or more (95 %).

What is done is not done again: stop it at any time, and repeat the command. `--jobs` runs several trainings at once.
"""

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import file_hash
from fima.checkpoints.classifier import load_classifier
from fima.checkpoints.pretrained import encoder_file, load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main as fima
from fima.commands.study import write_json
from fima.config import FinetuneConfig, PretrainConfig
from fima.data.clips import PUBLISHED_STRIDE
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.evaluate.extract import Resources
from fima.evaluate.intervals import FEWEST_GROUPS, drawn_means, interval
from fima.recipe import config_from_mapping, config_to_mapping, read_recipe
from fima.torch_tools.device import choose_device
from fima.use.predict import predict
from real_features import Floats, frame_differences, frame_hog, motion_hog, network_features, recognise
from real_table import COMPARED, ROWS, Listed, Row, read_table

METRICS = {"linear": "linear", "knn": "kNN", "r1": "R@1"}
EVALUATION_CLIPS = 3
HAND_MADE = {"differences": frame_differences, "motion_hog": motion_hog, "one_frame": frame_hog}


def recipe_flags(config: PretrainConfig, row: Row, shipped: str) -> list[str]:
    """What a row changes of the recipe."""
    flags = [*row.flags, "--optim.epochs", str(round(config.optim.epochs * row.share_of_epochs))]
    return [*flags, "--model.init-from", shipped if row.start == "shipped" else "None"]


def trained_encoder(cell: Path, listed: Listed, row: Row, arguments: argparse.Namespace) -> Path:
    """Train on the videos of the other folds, or go on with it, and return the run."""
    config = read_recipe(arguments.recipe)
    run, table = cell / "run", cell / "training_videos.csv"
    cell.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        parts = np.where(listed.test(arguments.fold), "test", "train")
        writer.writerows(zip(listed.paths, listed.labels, parts, strict=True))
    words = ["--data.annotations", str(table), "--out", str(run), "--auto-resume", "--run.seed", str(arguments.seed)]
    words += ["--run.device", arguments.device, "--data.workers", str(arguments.workers), "--data.keep-mb", "4096"]
    if row.trained_by == "finetune":
        start = arguments.shipped if row.start == "shipped" else "scratch"
        words = ["finetune", start, str(listed.folder), *words, "--classifier.backbone", config.model.backbone]
        words += ["--preset", "small_finetune", *arguments.extra]
    else:
        words = ["pretrain", str(listed.folder), *words, "--run.health-epochs", "0", "--run.picture-epochs", "0"]
        words += [*recipe_flags(config, row, arguments.shipped), *arguments.extra, str(arguments.recipe)]
    if fima(words) != 0:
        raise SystemExit(f"{cell}: training failed")
    return run


def classified(run: Path, paths: Sequence[Path], labels: Sequence[str], device: torch.device) -> list[bool]:
    """Which of the videos a classifier names rightly."""
    classifier = load_classifier(RunFolder(run).last, device=device)
    found = predict(classifier, paths, Resources(device=device, batch_size=24, workers=0), per_second=False)
    answers = {}
    for prediction in found:
        if isinstance(prediction, SkippedVideo):
            raise SystemExit(f"{prediction.path}: {prediction.reason}")
        answers[prediction.path] = classifier.checkpoint.classes[int(prediction.probabilities.argmax())]
    return [answers[path] == label for path, label in zip(paths, labels, strict=True)]


def kept_features(row: Row, cell: Path, listed: Listed, arguments: argparse.Namespace) -> dict[str, Floats]:
    """The same as `features_of`; of rows that train nothing, computed once for all folds."""
    if row.trained_by:
        return features_of(row, cell, listed, arguments)
    kept = cell.parent / f"features-seed-{arguments.seed}.npz"
    settings = json.dumps(settings_of(arguments.cell, arguments))
    if not kept.exists():
        temporary = cell / kept.name
        found = features_of(row, cell, listed, arguments)
        features, windows = np.stack(list(found.values())), list(found)
        np.savez(temporary, windows=windows, features=features, paths=listed.paths, settings=settings)
        temporary.replace(kept)
    with np.load(kept) as stored:
        if stored["paths"].tolist() != listed.paths or str(stored.get("settings", settings)) != settings:
            raise SystemExit(f"{kept}: is of another table, --recipe or --shipped; choose another --out")
        return dict(zip(stored["windows"].tolist(), stored["features"], strict=True))


def features_of(row: Row, cell: Path, listed: Listed, arguments: argparse.Namespace) -> dict[str, Floats]:
    """Features of all videos, for one row, fold and seed, by the window of their clips."""
    paths = [listed.folder / path for path in listed.paths]
    if arguments.cell in HAND_MADE:
        return {"whole video": np.stack([HAND_MADE[arguments.cell](path).double().numpy() for path in paths])}
    config, device = read_recipe(arguments.recipe), choose_device(arguments.device)
    if row.trained_by:
        source: Path | None = trained_encoder(cell, listed, row, arguments)
    else:
        source = Path(arguments.shipped) if row.start == "shipped" else None
    torch.manual_seed(arguments.seed)
    encoder: nn.Module
    if source is None:
        encoder = build_backbone(config.model.backbone).to(device).eval()
    else:
        encoder = load_pretrained(source, device=device).encoder
    return {
        name: network_features(encoder, paths, settings, device, repeated=row.repeated)
        for name, settings in clip_windows(config).items()
    }


def clip_windows(config: PretrainConfig) -> dict[str, ClipSettings]:
    """The clips of an evaluation, by the name of their window: the probe chooses."""
    trained = ClipSettings.of(config.data, num_clips=EVALUATION_CLIPS)
    return {"as in training": trained, "consecutive": replace(trained, span=0.0, fps=0.0, stride=PUBLISHED_STRIDE)}


def settings_of(row: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures of a row depend on, besides the table and the seed."""
    kind, settings = ROWS[row], dict[str, Any]()
    if row in HAND_MADE:
        return settings
    if kind.start == "shipped":
        settings["shipped"] = file_hash(encoder_file(Path(arguments.shipped)))
    recipe = config_to_mapping(read_recipe(arguments.recipe))
    if not kind.trained_by:
        return {**settings, **{part: recipe[part] for part in ("model", "data")}}
    return {**settings, "extra": arguments.extra, **({"recipe": recipe} if kind.trained_by == "pretrain" else {})}


def measure_cell(arguments: argparse.Namespace, listed: Listed) -> None:
    """Train and measure one row on one fold with one seed, and write what each test video came to."""
    cell = cell_folder(arguments.out, arguments.cell, arguments.fold, arguments.seed)
    test = listed.test(arguments.fold)
    tested = [path for path, is_tested in zip(listed.paths, test, strict=True) if is_tested]
    labels = [label for label, is_tested in zip(listed.labels, test, strict=True) if is_tested]
    if ROWS[arguments.cell].trained_by == "finetune":
        run = trained_encoder(cell, listed, ROWS[arguments.cell], arguments)
        right = classified(run, [listed.folder / path for path in tested], labels, choose_device(arguments.device))
        hits, window = {"linear": right}, "as in training"
        recipe = config_to_mapping(read_recipe(RunFolder(run).config, FinetuneConfig))
    else:
        found = recognise(
            kept_features(ROWS[arguments.cell], cell, listed, arguments), listed.classes, listed.groups, test
        )
        hits, window = {name: rows.tolist() for name, rows in found.hits.items()}, found.window
        recipe = config_to_mapping(read_recipe(arguments.recipe))
    write_json(
        cell / "hits.json",
        {
            "videos": tested,
            "labels": labels,
            "hits": hits,
            "window": window,
            "recipe": recipe,
            "settings": settings_of(arguments.cell, arguments),
        },
    )


def cell_folder(out: Path, row: str, fold: str, seed: int) -> Path:
    """Where a row's figures of a fold and a seed are."""
    return out / row / f"fold-{fold}-seed-{seed}"


def run_cells(arguments: argparse.Namespace, listed: Listed) -> bool:
    """Measure what is not measured yet, several at a time; return whether all went well.

    Seeds come one after another, so that an early end is fair.
    """
    folds = listed.fold_names if arguments.folds is None else arguments.folds
    if unknown := set(folds) - set(listed.fold_names):
        raise SystemExit(f"--folds {' '.join(sorted(unknown))}: the table has {', '.join(listed.fold_names)}")
    cells = [
        (row, fold, seed)
        for seed, fold, row in itertools.product(arguments.seeds, folds, arguments.rows)
        if not (cell_folder(arguments.out, row, fold, seed) / "hits.json").exists()
        and (ROWS[row].trained_by or ROWS[row].title == ROWS["untrained"].title or seed == arguments.seeds[0])
    ]

    def work(cell: tuple[str, str, int]) -> bool:
        row, fold, seed = cell
        own = ["--cell", row, fold, str(seed)]
        log = cell_folder(arguments.out, row, fold, seed) / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        with log.open("a") as file:
            done = subprocess.run(
                [sys.executable, __file__, *own, *sys.argv[1:]], stdout=file, stderr=file, env=environment, check=False
            )
        print(f"{row} fold {fold} seed {seed}: {'done' if done.returncode == 0 else f'failed, see {log}'}", flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return all(list(pool.map(work, cells)))


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of figures, with the defaults of what could not be set when they were measured."""
    parts = ("model", "data")
    recipe = settings.get("recipe", {name: settings[name] for name in parts if name in settings})
    whole = config_to_mapping(config_from_mapping(recipe, PretrainConfig, source="the recipe of the figures"))
    added = {"recipe": whole} if "recipe" in settings else {name: whole[name] for name in recipe}
    return {**settings, **added}


def read_hits(arguments: argparse.Namespace, listed: Listed, row: str) -> dict[str, Floats]:
    """Share of its seeds in which each video was recognised, by metric, (V,); NaN where it was not measured."""
    place = {path: number for number, path in enumerate(listed.paths)}
    sums = {name: np.zeros(len(place)) for name in METRICS}
    counts = np.zeros(len(place))
    for seed, fold in itertools.product(arguments.seeds, listed.fold_names):
        file = cell_folder(arguments.out, row, fold, seed) / "hits.json"
        if file.exists():
            found = json.loads(file.read_text())
            if set(found["videos"]) != set(np.array(listed.paths)[listed.test(fold)]):
                raise SystemExit(f"{file}: is of another table, or of other folds; choose another --out")
            settings = settings_of(row, arguments)
            if completed(found.get("settings", settings)) != settings:
                raise SystemExit(
                    f"{file}: was measured with another --recipe, --shipped or --extra; choose another --out"
                )
            rows = [place[path] for path in found["videos"]]
            labels = [listed.labels[number] for number in rows]
            if found.get("labels", labels) != labels:
                raise SystemExit(f"{file}: is of videos with other labels; choose another --out")
            counts[rows] += 1
            for name in METRICS:
                sums[name][rows] += found["hits"].get(name, np.nan)
    return {name: np.where(counts, values / np.maximum(counts, 1), np.nan) for name, values in sums.items()}


def show(arguments: argparse.Namespace, listed: Listed) -> None:
    """Print the table, and what FIMA has over MoCo and over what it began with, on the videos that both have."""
    measured = {row: read_hits(arguments, listed, row) for row in arguments.rows}
    found = {row: hits for row, hits in measured.items() if not np.isnan(hits["linear"]).any()}
    num_groups = len(set(listed.groups))
    table = Table("", *(f"{title} top-1" for title in METRICS.values()), box=None)
    for row, hits in found.items():
        cells = []
        for name in METRICS:
            if np.isnan(hits[name]).any():
                cells.append("–")
                continue
            spread = ""
            if num_groups >= FEWEST_GROUPS:
                low, high = interval(100 * drawn_means(hits[name], listed.groups), num_groups)
                spread = f" ({low:.1f}–{high:.1f})"
            cells.append(f"{100 * hits[name].mean():.1f}{spread}")
        table.add_row(ROWS[row].title, *cells)
    console = Console(width=120)
    few = "" if num_groups >= FEWEST_GROUPS else f"; intervals need {FEWEST_GROUPS} groups"
    console.print(f"{len(listed.paths)} videos, {num_groups} groups, {len(listed.fold_names)} folds{few}")
    console.print(table)
    if missing := [row for row in arguments.rows if row not in found]:
        console.print(f"not all folds measured yet: {', '.join(missing)}")
    for ours, other in COMPARED:
        for name, title in METRICS.items():
            difference = (
                measured[ours][name] - measured[other][name] if {ours, other} <= measured.keys() else np.array([])
            )
            both = np.flatnonzero(~np.isnan(difference))
            groups = [listed.groups[place] for place in both]
            if (num_both := len(set(groups))) >= FEWEST_GROUPS:
                low, high = interval(100 * drawn_means(difference[both], groups), num_both)
                what = f"{ROWS[ours].title} minus {ROWS[other].title}, {num_both} groups"
                console.print(f"{what}: {title} {100 * difference[both].mean():+.1f} ({low:+.1f} to {high:+.1f})")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all rows and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV with the columns path, label, group, fold")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and figures")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/small.yaml"))
    parser.add_argument("--fold-column", default="fold", help="`group`: leave one group out")
    parser.add_argument("--folds", nargs="*", help="measure these now, or none; a row is shown when it has all")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shipped", default="small", help="encoder that the warm rows start from: a name or a file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--threads", type=int, default=1, help="of each of them")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes of each of them")
    parser.add_argument(
        "--extra",
        nargs=argparse.REMAINDER,
        default=[],
        help="further flags of fima, for all chosen rows; last",
    )
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    listed = read_table(arguments.table, arguments.fold_column)
    if arguments.cell is not None:
        arguments.cell, arguments.fold, seed = arguments.cell
        arguments.seed = int(seed)
        measure_cell(arguments, listed)
        return
    went_well = run_cells(arguments, listed)
    show(arguments, listed)
    if not went_well:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
