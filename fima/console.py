"""Where tables and progress are printed."""

import rich.console


class Console(rich.console.Console):
    """A console that raises an error when nobody reads its output any more, instead of leaving the program."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError again; `fima.cli.main` knows what to do."""
        raise BrokenPipeError
