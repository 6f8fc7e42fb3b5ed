"""Where tables and progress are printed."""

import os
import shutil
import textwrap
from typing import Any

import rich.console

STARTED_BY_A_NOTEBOOK = "JPY_PARENT_PID"
"""A variable that is set below a Jupyter kernel."""
NARROWEST = 40
"""Columns below which text is not made narrower."""


class Console(rich.console.Console):
    """A console that prints text as it is, such as a name `clip[x]:cat:.mp4`, which rich would take for its markup.

    It raises an error when nobody reads its output any more, instead of leaving the program.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    @property
    def is_terminal(self) -> bool:
        """Whether lines can be overwritten; what a notebook starts by `!` sees a terminal, and cannot."""
        return super().is_terminal and STARTED_BY_A_NOTEBOOK not in os.environ

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError again; `fima.cli.main` knows what to do."""
        raise BrokenPipeError


def wrapped(text: str, *, indent: str = "") -> str:
    """Break lines that are too long for the terminal between words; what a broken one goes on with is indented."""
    width = max(NARROWEST, shutil.get_terminal_size().columns)
    filler = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(filler.fill(line) if len(line) > width else line for line in text.split("\n"))
