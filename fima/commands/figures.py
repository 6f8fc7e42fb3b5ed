"""The table that the commands print of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from fima.evaluate.protocols import EvaluationResult


def figures_table(result: EvaluationResult, title: str) -> Table:
    """Return a row a figure, in percent, with its interval; of several splits or folds, a column each before that."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    units = [f"{result.unit} {name}" for name in result.splits]
    interval_column = ["95 %"] if result.intervals else []
    for name in (*units, "mean ± sd" if units else "%", *interval_column, "chance"):
        table.add_column(name, justify="right")
    for name, value in result.figures.items():
        spread = f" ± {result.sd[name]:.1f}" if name in result.sd else ""
        by_split = (f"{figures[name]:.1f}" for figures in result.splits.values())
        interval = [" to ".join(f"{end:.1f}" for end in result.intervals.get(name, ()))] if result.intervals else []
        table.add_row(name, *by_split, f"{value:.1f}{spread}", *interval, f"{result.chance[name]:.1f}")
    return table
