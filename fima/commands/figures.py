"""The table that the commands print of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from fima.evaluate.protocols import EvaluationResult


def figures_table(result: EvaluationResult, title: str) -> Table:
    """Return a row a figure, in percent; of several splits, a column each, then mean and standard deviation."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for name in (*(f"split {number}" for number in result.splits), "mean ± sd" if result.splits else "%", "chance"):
        table.add_column(name, justify="right")
    for name, value in result.figures.items():
        spread = f" ± {result.sd[name]:.1f}" if name in result.sd else ""
        by_split = (f"{figures[name]:.1f}" for figures in result.splits.values())
        table.add_row(name, *by_split, f"{value:.1f}{spread}", f"{result.chance[name]:.1f}")
    return table
