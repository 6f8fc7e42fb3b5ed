"""The table that the commands print of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from fima.evaluate.protocols import PROTOCOL_SUMMARIES, PROTOCOL_VERSIONS

if TYPE_CHECKING:
    from fima.evaluate.protocols import EvaluationResult


def protocols_table() -> Table:
    """Return a row a protocol of `fima evaluate`: name, version, what it measures, what it needs."""
    table = Table("protocol", "version", "what it measures", "what it needs")
    for name, (measures, needs) in PROTOCOL_SUMMARIES.items():
        table.add_row(name, str(PROTOCOL_VERSIONS[name]), measures, needs)
    return table


def figures_table(result: EvaluationResult, title: str) -> Table:
    """Return a row a figure, in percent, with its interval; of several splits, a column each before that."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    # Folds may be many; those of each are in the JSON.
    shown = {} if result.unit == "fold" else result.splits
    interval_column = ["95 %"] if result.intervals else []
    for name in (
        *(f"split {number}" for number in shown),
        "mean ± sd" if result.splits else "%",
        *interval_column,
        "chance",
    ):
        table.add_column(name, justify="right")
    for name, value in result.figures.items():
        spread = f" ± {result.sd[name]:.1f}" if name in result.sd else ""
        by_split = (f"{figures[name]:.1f}" for figures in shown.values())
        interval = [" to ".join(f"{end:.1f}" for end in result.intervals.get(name, ()))] if result.intervals else []
        table.add_row(name, *by_split, f"{value:.1f}{spread}", *interval, f"{result.chance[name]:.1f}")
    table.caption, table.caption_justify = provenance(result), "left"
    return table


def provenance(result: EvaluationResult) -> str:
    """Return in one line what the figures depend on: lists, seed, clips, and the versions of the protocols."""
    count = max(1, len(result.splits))
    clips: dict[str, Any] = next((found["clips"] for found in result.protocols.values() if "clips" in found), {})
    sampling = ", ".join(f"{name} {value}" for name, value in clips.items() if value)
    protocols = ", ".join(f"{name} {found['version']}" for name, found in result.protocols.items() if "@" not in name)
    unit = result.unit if count == 1 else f"{result.unit}s"
    return f"{count} {unit} ({result.lists_hash}) · seed {result.seed} · clips: {sampling} · protocols: {protocols}"
