"""Where tables and progress are printed."""

import os

import rich.console

STARTED_BY_A_NOTEBOOK = "JPY_PARENT_PID"
"""A variable that is set below a Jupyter kernel."""


class Console(rich.console.Console):
    """A console that raises an error when nobody reads its output any more, instead of leaving the program."""

    @property
    def is_terminal(self) -> bool:
        """Whether lines can be overwritten; what a notebook starts by `!` sees a terminal, and cannot."""
        return super().is_terminal and STARTED_BY_A_NOTEBOOK not in os.environ

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError again; `fima.cli.main` knows what to do."""
        raise BrokenPipeError
