"""Tables of a page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

NUMBER = re.compile(r"-?\d[\d,.]*(e[+-]?\d+)?( ± [\d.]+)?")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column heads the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    """Cells; the first one of a row is its heading."""

    def style(self, column: int) -> Markup:
        """The attribute of the cells of a column: those of numbers are aligned as such."""
        return Markup(' class="number"') if column in self._columns_of_numbers else Markup("")

    @cached_property
    def _columns_of_numbers(self) -> set[int]:
        columns = [[str(cell) for cell in column if str(cell)] for column in zip(*self.rows, strict=True)]
        return {place for place, texts in enumerate(columns) if texts and all(map(NUMBER.fullmatch, texts))}


def number(value: object) -> str:
    """A number as a cell, with four significant digits; nothing for anything else."""
    if not isinstance(value, int | float):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
