"""`fima benchmark`: how fast this machine trains."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from fima.benchmark.settings import BenchmarkSettings
from fima.commands.parse import Device
from fima.commands.verbosity import is_quiet
from fima.config.checks import require
from fima.console import Console
from fima.errors import ConfigError

if TYPE_CHECKING:
    from fima.benchmark.machine import Measured
    from fima.benchmark.steps import StepFigures

EXIT_DEVIATES = 1
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class BenchmarkArguments(BenchmarkSettings):
    """Measure how fast this machine decodes, augments and trains, and how long each recipe would take. Needs no data.

    For example: `fima benchmark --json > machine.json`.
    Exit code 1: with --parity, the device's losses deviate from the CPU's.
    """

    price: float | None = None
    """Price of an hour of this machine, for the cost of each recipe."""
    device: Device = "auto"
    json: bool = False
    """Print everything as one JSON object."""


def main(arguments: BenchmarkArguments) -> int:
    """Run the command and return its exit code."""
    from fima.backbones.registry import BACKBONES
    from fima.benchmark.machine import measure
    from fima.torch_tools.device import choose_device

    device = choose_device(arguments.device)
    require(arguments.price is None or not arguments.json, "price", arguments.price, "is for the table, not for --json")
    if arguments.parity and device.type == "cpu":
        raise ConfigError("--parity compares a GPU with the CPU; there is no GPU here, or --device cpu was given")
    for backbone in arguments.backbones:
        BACKBONES.check(backbone, flag="backbones")
    measured = measure(arguments, device, _say)
    if arguments.json:
        print(json.dumps(measured.to_dict(), indent=1))
    else:
        show(measured, arguments.price, Console())
    return 0 if all(each.holds for each in measured.parity) else EXIT_DEVIATES


def _say(what: str) -> None:
    if not is_quiet():
        print(f"measuring {what}", file=sys.stderr, flush=True)


def show(measured: "Measured", price: float | None, console: Console) -> None:
    """Print tables for people, and the row for the table of machines."""
    machine = measured.machine
    name = machine.get("gpu") or machine["processor"]
    console.print(f"{name} · {machine['cores']} cores · torch {machine['torch']} · fima {machine['fima']}")
    for each in measured.parity:
        verdict = "agrees with" if each.holds else "DEVIATES from"
        console.print(f"{each.backbone} {verdict} the CPU: {each.deviation:.1e}, relative, of the first step's losses")
    if measured.decoding is not None:
        found = measured.decoding
        both = f"{found.per_core:.1f} videos/s with one core, {found.all_cores:.1f} with {found.cores}"
        console.print(f"decoding and cropping: {both}")
    for what, error in measured.errors.items():
        console.print(f"{what}: not measured ({error})")
    console.print(f"augmentation: {_number(measured.augmentation, 1)} videos/s")
    console.print(_steps_table(measured.steps))
    for which, batch in measured.largest.items():
        console.print(f"largest batch that fits, {which}: {batch}")
    if measured.recipes():
        console.print(_recipes_table(measured, price))
    console.print("row for the table of machines in docs/performance.md:")
    console.print(machine_row(measured), soft_wrap=True)


def machine_row(measured: "Measured") -> str:
    """The machine's row in the table of docs/performance.md, in Markdown."""
    machine = measured.machine
    decoding = measured.decoding
    cells = [
        f"{machine.get('gpu') or machine['processor']}, {machine['cores']} cores",
        f"{machine['torch']}",
        "–" if decoding is None else f"{decoding.per_core:.1f} / {decoding.all_cores:.1f}",
        *(_fastest(measured.steps, backbone) for backbone in ("i3d", "r2plus1d_18")),
        ", ".join(f"{which}: {batch}" for which, batch in measured.largest.items()) or "–",
    ]
    return f"| {' | '.join(cells)} |"


def _fastest(steps: Sequence["StepFigures"], backbone: str) -> str:
    """The fastest FIMA step of a backbone, in words."""
    rated = [(each.videos_per_second or 0.0, each.case) for each in steps if each.case.backbone == backbone]
    rated = [(rate, case) for rate, case in rated if rate and case.method == "fima"]
    if not rated:
        return "–"
    rate, case = max(rated, key=lambda pair: pair[0])
    compiled = ", compiled" if case.compiled else ""
    return f"{rate:.1f} ({case.precision}, {case.crop_size} px, batch {case.batch_size}{compiled})"


def _steps_table(steps: Sequence["StepFigures"]) -> Table:
    table = Table(title="\ntraining steps, clips of 16 frames", title_justify="left", caption_justify="left")
    for heading in ("step", "computes in"):  # words wrap in a narrow terminal, so that figures are not cut
        table.add_column(heading, overflow="fold")
    for heading in ("px", "batch", "ms", "videos/s", "floor %", "GiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in steps:
        case = each.case
        layout = "" if case.channels_last else ", channels first"
        kind = f"{case.precision}{layout}{', compiled' if case.compiled else ''}"
        figures = [
            _number(each.step_seconds, 0, 1e3),
            _number(each.videos_per_second, 1),
            _number(each.floor_share, 0, 100),
            _number(each.peak_bytes, 1, 1 / GIB),
        ]
        table.add_row(f"{case.method} {case.backbone}", kind, str(case.crop_size), str(case.batch_size), *figures)
    errors = Counter(each.error for each in steps if each.error)
    table.caption = "\n".join(["floor: share of the encoder passes", *(f"–: {n} x {e}" for e, n in errors.items())])
    return table


def _recipes_table(measured: "Measured", price: float | None) -> Table:
    table = Table(title="\nrecipes at these speeds, if batches are there in time", title_justify="left")
    table.add_column("recipe")
    for heading in ("videos", "epochs", "videos/s", "hours", *(() if price is None else ("cost",))):
        table.add_column(heading, justify="right")
    supply = measured.decoding.all_cores if measured.decoding is not None else float("inf")
    for each in measured.recipes():
        late = " *" if each.videos_per_second > supply else ""
        cost = [] if price is None else [f"{price * each.hours:,.0f}"]
        row = [f"{each.videos:,}", f"{each.epochs}", f"{each.videos_per_second:.1f}{late}", f"{each.hours:,.1f}"]
        table.add_row(each.recipe, *row, *cost)
    if any(each.videos_per_second > supply for each in measured.recipes()):
        table.caption = f"* more than the {supply:.0f} videos/s that this machine's cores decode"
    return table


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "–" if value is None else f"{value * scale:,.{digits}f}"
