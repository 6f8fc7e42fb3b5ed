"""Labels of a few people only: what pre-training on the unlabelled videos of all training people is worth then.

    python benchmarks/real_video.py VIDEOS.csv --out runs/real --rows fima_warm moco_warm
    python benchmarks/few_labels.py VIDEOS.csv --runs runs/real --labelled 2 --finetuned

The encoders are those that `real_video.py` trained on all videos of a fold's training groups. Here, only some of these
groups have labels, drawn anew for each fold and seed and the same for all rows: the probe, or fine-tuning by
`recipes/small_finetune.yaml`, sees nothing else. As there, every video is tested once a seed, by a probe that chooses
its strength and the window of the clips on held-out groups among the labelled ones, and intervals are over groups. What
is done is not done again.
"""

import argparse
import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main as fima
from fima.commands.study import write_json
from fima.evaluate.intervals import FEWEST_GROUPS, drawn_means, interval
from fima.recipe import read_recipe
from fima.torch_tools.device import choose_device
from real_features import Floats, network_features, recognise
from real_table import ROWS, Listed, read_table
from real_video import cell_folder, classified, clip_windows

STARTS = ("fima_warm", "moco_warm", "shipped")


def labelled_groups(listed: Listed, fold: str, seed: int, count: int) -> set[str]:
    """The groups of the training videos that have labels, drawn by fold and seed; fewer are among those of more."""
    training = sorted({group for group, own in zip(listed.groups, listed.folds, strict=True) if own != fold})
    if count > len(training):
        raise SystemExit(f"--labelled {count}: fold {fold} trains on {len(training)} groups")
    order = np.random.default_rng([seed, listed.fold_names.index(fold)]).permutation(training)
    return {str(group) for group in order[:count]}


def encoder_of(arguments: argparse.Namespace, row: str, fold: str, seed: int) -> Path:
    """The encoder of a row: the package's, or what `real_video.py` trained without labels."""
    if row == "shipped":
        return Path("small")
    run = cell_folder(arguments.runs, row, fold, seed) / "run"
    if not RunFolder(run).last.exists():
        raise SystemExit(f"{run}: there is no such run; train it with real_video.py --rows {row}")
    return run


def kept_features(arguments: argparse.Namespace, listed: Listed, row: str, fold: str, seed: int) -> dict[str, Floats]:
    """Features of all videos by the window of their clips, computed once for each encoder."""
    name = "shipped" if row == "shipped" else f"{row}-{fold}-{seed}"
    kept, windows = arguments.out / "features" / f"{name}.npz", clip_windows(read_recipe(arguments.recipe))
    if not kept.exists():
        device = choose_device(arguments.device)
        encoder = load_pretrained(encoder_of(arguments, row, fold, seed), device=device).encoder
        paths = [listed.folder / path for path in listed.paths]
        found = [network_features(encoder, paths, settings, device) for settings in windows.values()]
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(".part.npz")
        np.savez(temporary, features=np.stack(found), paths=listed.paths, clips=str(windows))
        temporary.replace(kept)
    with np.load(kept) as stored:
        if stored["paths"].tolist() != listed.paths or str(stored["clips"]) != str(windows):
            raise SystemExit(f"{kept}: is of another table or --recipe; choose another --out")
        return dict(zip(windows, stored["features"], strict=True))


def probed(features: dict[str, Floats], listed: Listed, fold: str, labelled: set[str]) -> dict[str, list[bool]]:
    """Which of the fold's videos a linear probe and the nearest neighbours get right, by metric."""
    test = listed.test(fold)
    used = np.flatnonzero(test | np.isin(listed.groups, list(labelled)))
    found = recognise(
        {window: rows[used] for window, rows in features.items()},
        np.unique(listed.classes[used], return_inverse=True)[1].astype(np.int64),
        [listed.groups[place] for place in used],
        test[used],
    )
    return {name: hits.tolist() for name, hits in found.hits.items()}


def fine_tuned(
    arguments: argparse.Namespace, listed: Listed, start: Path, cell: Path, part: tuple[str, set[str], int]
) -> list[bool]:
    """Fine-tune on the labelled groups; which of the fold's videos the classifier gets right."""
    fold, labelled, seed = part
    cell.mkdir(parents=True, exist_ok=True)
    table, run, test = cell / "labelled_videos.csv", cell / "run", listed.test(fold)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for path, label, group, tested in zip(listed.paths, listed.labels, listed.groups, test, strict=True):
            if tested or group in labelled:
                writer.writerow([path, label, "test" if tested else "train"])
    words = ["finetune", str(start), str(listed.folder), "--data.annotations", str(table), "--out", str(run)]
    words += ["--auto-resume", "--run.seed", str(seed), "--run.device", arguments.device, "--data.keep-mb", "4096"]
    words += ["--data.workers", "0", "--preset", "small_finetune", "--optim.epochs", str(arguments.epochs)]
    if fima(words) != 0:
        raise SystemExit(f"{cell}: training failed")
    tested_places = np.flatnonzero(test)
    return classified(
        run,
        [listed.folder / listed.paths[place] for place in tested_places],
        [listed.labels[place] for place in tested_places],
        choose_device(arguments.device),
    )


def measure(arguments: argparse.Namespace, listed: Listed) -> dict[str, Floats]:
    """Share of its seeds in which each video was recognised, by row, (V,)."""
    sums: dict[str, Floats] = {}
    for seed, fold, count in itertools.product(arguments.seeds, listed.fold_names, arguments.labelled):
        labelled, places = labelled_groups(listed, fold, seed, count), np.flatnonzero(listed.test(fold))
        for row in arguments.rows:
            cell = arguments.out / f"{count}-labelled" / row / f"fold-{fold}-seed-{seed}"
            file = cell / "probed.json"
            if not file.exists():
                cell.mkdir(parents=True, exist_ok=True)
                write_json(file, probed(kept_features(arguments, listed, row, fold, seed), listed, fold, labelled))
            hits = json.loads(file.read_text())
            if arguments.finetuned:
                file = cell / "finetuned.json"
                if not file.exists():
                    start = encoder_of(arguments, row, fold, seed)
                    write_json(file, fine_tuned(arguments, listed, start, cell, (fold, labelled, seed)))
                hits["fine-tuned"] = json.loads(file.read_text())
            for metric, right in hits.items():
                of_row = sums.setdefault(f"{count}/{row}/{metric}", np.zeros(len(listed.paths)))
                of_row[places] += np.array(right) / len(arguments.seeds)
            print(f"{count} labelled, {row}, fold {fold}, seed {seed}", flush=True)
    return sums


def with_interval(hits: npt.NDArray[np.float64], listed: Listed, sign: str = "") -> str:
    """A mean in percent and, of six groups or more, its interval."""
    groups = len(set(listed.groups))
    shown = f"{100 * hits.mean():{sign}.1f}"
    if groups < FEWEST_GROUPS:
        return shown
    low, high = interval(100 * drawn_means(hits, listed.groups), groups)
    return f"{shown} ({low:{sign}.1f} to {high:{sign}.1f})"


def show(found: dict[str, Floats], listed: Listed, arguments: argparse.Namespace) -> None:
    """Print a table for each number of labelled groups, and the differences of its rows."""
    console = Console(width=140)
    for count in arguments.labelled:
        metrics = [key.split("/")[2] for key in found if key.startswith(f"{count}/{arguments.rows[0]}/")]
        table = Table(f"labels of {count} groups", *metrics, box=None)
        for row in arguments.rows:
            values = [found[f"{count}/{row}/{metric}"] for metric in metrics]
            table.add_row(ROWS[row].title, *(with_interval(hits, listed) for hits in values))
        for ours, other in itertools.combinations(arguments.rows, 2):
            values = [found[f"{count}/{ours}/{metric}"] - found[f"{count}/{other}/{metric}"] for metric in metrics]
            table.add_row(f"{ours} minus {other}", *(with_interval(hits, listed, "+") for hits in values))
        console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all rows and show the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV with the columns path, label, group, fold")
    parser.add_argument("--runs", type=Path, required=True, help="--out of real_video.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures and classifiers")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/small.yaml"))
    parser.add_argument("--fold-column", default="fold")
    parser.add_argument("--rows", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--labelled", nargs="+", type=int, default=[2, 4], help="groups with labels; two or more")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--finetuned", action="store_true", help="fine-tune as well")
    parser.add_argument("--epochs", type=int, default=100, help="of fine-tuning")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    if min(arguments.labelled) < 2:
        parser.error("--labelled: the probe chooses on held-out groups, so two or more must have labels")
    listed = read_table(arguments.table, arguments.fold_column)
    show(measure(arguments, listed), listed, arguments)


if __name__ == "__main__":
    main()
