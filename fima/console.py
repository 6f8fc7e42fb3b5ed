"""Where tables and progress are printed."""

import rich.console


class Console(rich.console.Console):
    """A console that tells its caller when nobody reads its output any more, in the place of leaving the program."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError again; `fima.cli.main` knows what to do."""
        raise BrokenPipeError
