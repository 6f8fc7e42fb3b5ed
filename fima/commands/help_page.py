"""The help page of a command as data: completion and the messages about mistyped flags need to know the flags."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator

COLUMNS = 110
"""Width of the page that is read: every flag begins a line, and none is broken."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ENTRY = re.compile(r"^(?:│ |  )(?P<names>[-{].*?)(?: {2,}|│|$)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
CHOICES = re.compile(r"\{([\w.,-]+)\}")
POSITIONAL = ""
"""Stands for the name of an argument that has none."""


@contextlib.contextmanager
def terminal_of(columns: int) -> Iterator[None]:
    """Make the parser believe that the terminal is that wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def read_page(print_help: Callable[[], object]) -> str:
    """Return what a function prints before it leaves with SystemExit."""
    page = io.StringIO()
    with terminal_of(COLUMNS), contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        print_help()
    return COLOUR.sub("", page.getvalue())


def flags_in(page: str) -> dict[str, list[str]]:
    """Return the values that may follow each flag of a page; no values where that is up to the user.

    The values of a positional argument are those of `POSITIONAL`.
    """
    found = {}
    for line in page.splitlines():
        if entry := ENTRY.match(line):
            values = ",".join(CHOICES.findall(entry["names"])).split(",")
            for name in OPTION.findall(entry["names"]) or [POSITIONAL] * entry["names"].startswith("{"):
                found[name] = [value for value in values if value not in ("", "None")]
    return found
