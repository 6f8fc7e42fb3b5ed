"""Command-line flags as dataclasses, parsed by tyro."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

Arguments = TypeVar("Arguments")


def parse(
    kind: type[Arguments], argv: Sequence[str] | None, *, prog: str, default: Arguments | None = None
) -> Arguments:
    """Parse the flags of one command.

    Args:
        kind: dataclass whose fields are the flags, and whose docstring is the help.
        argv: the arguments after the command's name; those of the process when None.
        prog: what to call the command in help and errors.
        default: values of the flags that are not given.

    Raises:
        SystemExit: after `--help` (0) or a flag that is wrong (2, with tyro's message and suggestion on stderr).
    """
    if default is None:
        return tyro.cli(kind, args=argv, prog=prog)
    return tyro.cli(kind, args=argv, prog=prog, default=default)
