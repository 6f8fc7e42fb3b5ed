"""`fima demo`: FIMA against MoCo on synthetic videos, in minutes on two cores."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.style import Style
from rich.table import Table
from rich.text import Text

from fima.commands import study
from fima.commands.at_once import load_ahead, run_at_once
from fima.commands.parse import OUT
from fima.console import Console
from fima.data.workers.killable_pool import available_cores
from fima.evaluate.protocols import FEATURE_PROTOCOLS
from fima.files.output import check_writable

Method = Literal["moco", "fima"]
RECIPES: Mapping[Method, str] = {"moco": "motion_textures_moco.yaml", "fima": "motion_textures_fima.yaml"}
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
QUICK_SIZE = ("--num-train", 120, "--num-test", 40)
QUICK_SETTINGS: Mapping[str, object] = {
    "optim.epochs": 5,
    "optim.batch_size": 10,
    "data.crop_size": 48,
    "method.queue_size": 28,
    "data.workers": 0,
    "run.health_epochs": 0,
    "run.picture_epochs": 0,
}
"""The queue has the paper's share of the videos. Another process that decodes takes longer to start than it saves."""
QUICK_NOTE = (
    "Smaller than `fima demo`: 120 training videos instead of 600, 5 epochs instead of 10, crops of 48 px instead of "
    "64. FIMA light is `--method.cost light`. With 40 test videos instead of 400, a figure is good to ±15."
)


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Make videos whose class is the motion, pre-train MoCo and FIMA on them, and show which learned the motion.

    For example: `fima demo --quick`. Every step is a `fima` command, which is printed; a second call reuses what is
    there. Both methods are trained and evaluated at once, each with half of the cores.
    """

    out: Annotated[Path | None, OUT] = None
    """Folder of data and runs. None: runs/demo, or runs/demo-quick."""
    seed: int = 0
    """Seed of the data and of both runs."""
    quick: bool = False
    """Fewer and smaller videos, fewer epochs and pictures: about a minute on two cores. Lower accuracies."""
    method: Method | None = None
    """Train and evaluate only this method, on the videos of an earlier call."""

    @property
    def folder(self) -> Path:
        """Where everything is."""
        return self.out or Path("runs", "demo-quick" if self.quick else "demo")

    @property
    def data(self) -> Path:
        """The videos."""
        return self.folder / f"data-{self.seed}"

    @property
    def runs(self) -> dict[Method, Path]:
        """The folder of each method's run."""
        return {name: self.folder / f"{name}-{self.seed}" for name in RECIPES}


def main(arguments: DemoArguments) -> int:
    """Run the command and return its exit code."""
    check_writable(arguments.folder, flag="out")
    return _compare(arguments) if arguments.method is None else _train(arguments, arguments.method)


def _train(arguments: DemoArguments, method: Method) -> int:
    """Train and evaluate one method."""
    settings: Mapping[str, object] = {}
    if arguments.quick:
        settings = dict(QUICK_SETTINGS) | ({"method.cost": "light"} if method == "fima" else {})
    study.pretrain_and_evaluate(
        study.Trial(recipe=RECIPES[method], settings=settings),
        data=arguments.data,
        out=arguments.runs[method],
        seed=arguments.seed,
        workers=0 if arguments.quick else 2,
        # The other two look at every clip many times.
        protocols=FEATURE_PROTOCOLS if arguments.quick else study.PROTOCOLS,
    )
    return 0


def _compare(arguments: DemoArguments) -> int:
    """Run all steps."""
    start = time.monotonic()
    # Read when PyTorch is loaded, here and in both processes.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // len(RECIPES))))
    out, data, runs, seed = arguments.folder, arguments.data, arguments.runs, arguments.seed
    load_ahead()
    study.make_data(data, *(QUICK_SIZE if arguments.quick else ()), seed=seed)
    study.run("contact-sheet", data, "--out", out / "contact_sheet.png", "--split", "test", "--examples-per-class", 1)
    words = ["--out", str(out), "--seed", str(seed), *(["--quick"] if arguments.quick else [])]
    if code := run_at_once({name: ["demo", *words, "--method", name] for name in runs}):
        return code
    pictures = _pictures(arguments)
    for command in pictures.values():
        study.show_command(*command)
    if code := run_at_once(pictures):
        return code
    figures = {name: study.read_figures(study.result_file(folder)) for name, folder in runs.items()}
    seconds = round(time.monotonic() - start, 1)
    summary = {"methods": figures, "seconds": seconds, "seed": seed, "quick": arguments.quick}
    study.write_json(out / "summary.json", summary)
    _show(figures, arguments, seconds)
    return 0


def _pictures(arguments: DemoArguments) -> dict[str, list[object]]:
    """The commands that show what was trained, by their names in front of what they say."""
    moco, fima = (folder / "checkpoints" / "last.pt" for folder in arguments.runs.values())
    data = arguments.data
    compare = ("cam", moco, data, "--compare", fima, "--split", "test")
    commands: dict[str, list[object]] = {
        "maps": [*compare, "--map", "occlusion", "--out", arguments.folder / "occlusion_maps.png"],
        "report": ["report", *arguments.runs.values(), "--data", data, "-o", arguments.folder / "report.html"],
    }
    if not arguments.quick:  # the report has such maps too
        commands["activation"] = [*compare, "--map", "both", "--out", arguments.folder / "activation_maps.png"]
    return commands


def _show(figures: Mapping[Method, Mapping[str, float]], arguments: DemoArguments, seconds: float) -> None:
    """Print the table, a row a figure and a column a method, and where everything is; the report last."""
    names: dict[Method, str] = {"moco": "MoCo", "fima": "FIMA light" if arguments.quick else "FIMA"}
    console = Console()
    table = Table(title="\nDoes the encoder see the motion, or the background?  (%)", title_justify="left")
    table.add_column("")
    for name in figures:
        table.add_column(names[name], justify="right")
    for column, title in TITLES.items():
        if all(column in found for found in figures.values()):
            table.add_row(title, *[f"{found[column]:.1f}" for found in figures.values()])
    console.print(table)
    if arguments.quick:
        console.print(QUICK_NOTE, soft_wrap=True)
    files = {
        "summary.json": "figures",
        "contact_sheet.png": "videos",
        "activation_maps.png": "where the encoders respond",
        "occlusion_maps.png": "what their features depend on",
        "report.html": "everything on one page",
    }
    if arguments.quick:
        del files["activation_maps.png"]
    console.print(f"{seconds:.0f} s")
    for file, what in files.items():
        path = arguments.folder / file
        # A link where the terminal shows links; elsewhere the path alone.
        shown = Text(str(path), style=Style(link=path.resolve().as_uri()))
        console.print(Text(f"{what}: ").append_text(shown), soft_wrap=True)
