"""What the parser says about wrong flags and values, as the one line that every error of `fima` is."""

import contextlib
import difflib
import io
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence

from fima.errors import suggestion

DASHED_NAME = re.compile(r"-(?!-|=|\d*\.?\d+$).[^=]")
"""A word that is no flag of ours, and that the parser takes for one: the name of a file such as `-1.mp4`."""
RULE = re.compile(r"^ *[─-]{5,}$", re.MULTILINE)
CHOICE = re.compile(
    r"invalid choice '(?P<value>.*)' for argument '(?P<flag>.*?)'\. Expected one of \((?P<choices>.*)\)"
)
NO_VALUE = re.compile(r"Missing value for argument '(?P<flag>.*?)'")
UNREADABLE = re.compile(r"Error parsing (?P<flag>\S+): (?P<reason>.*)")
WRONG_TYPE = re.compile(r"(?P<type>int|float)\b.*: '(?P<value>.*)'$")
WRONG_VALUES = re.compile(
    r"(?:no type matching (?P<types>.*?) could be instantiated from|valid parse for arguments:) \[(?P<values>.*?)\]"
)
NUMBERS = {
    "int": "a whole number is",
    "float": "a number is",
    "INT": "a whole number is",
    "FLOAT": "a number is",
    "FLOAT FLOAT": "two numbers are",
    "INT INT": "whole numbers are",
}
"""What is needed, by the name of a type and by what the parser shows of one or several."""
HELP_INDENT = re.compile(r"\n {8,}")
SURE = 0.6
"""How alike a mistyped flag and the one that was meant are, at least."""
COLUMNS = 110
"""Width of the page that is read: every flag begins a line, and none is broken."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ENTRY = re.compile(r"^(?:│ |  )(?P<names>[-{].*?)(?: {2,}|│|$)")
SHORT = re.compile(r"-[A-Za-z]")
SHORT_FORM = re.compile(rf"^{SHORT.pattern} \S+, ")
OPTION = re.compile(rf"(?<![\w-])(?:--[a-z][\w.-]*|{SHORT.pattern}(?![\w-]))")
CHOICES = re.compile(r"\{([\w.,-]+)\}")
POSITIONAL = ""
"""Stands for the name of an argument that has none."""


def one_line_error(frame: str, *, words: Sequence[str], flags: Collection[str], usage: str = "") -> str:
    """Return what a frame of the parser, in lines that are not broken, says as one line; what is not known, as it is.

    `words` were typed, `flags` are those of the command, and `usage` is how it is called.
    """
    head = _first_section(frame)
    text = " ".join(line.strip() for line in head)
    known = {_plain(flag): flag for flag in flags}
    typed = (word.split("=")[0] for word in words)
    unknown = [flag for flag in typed if (flag[:2] == "--" or SHORT.fullmatch(flag)) and _plain(flag) not in known]
    no_value = NO_VALUE.search(text)
    # The parser takes a flag for a missing positional argument, and names the field of the program.
    is_positional = no_value is not None and not no_value["flag"].startswith("-")
    dashed = [word for word in words if DASHED_NAME.match(word)]
    if dashed and (is_positional or no_value or "Unrecognized options" in frame):
        return f"{dashed[0]}: unknown flag, and no such file; a name that begins with a dash is written ./{dashed[0]}"
    if is_positional:
        unknown = [flag for flag in unknown if flag[:2] == "--"]
    if unknown and (is_positional or "Unrecognized options" in frame or text.startswith("Missing from")):
        return f"{unknown[0]}: unknown flag{_flag_suggestion(unknown[0], known)}"
    if is_positional:
        return f"missing argument: {usage}"
    if text.startswith("Missing from"):
        return f"missing: {'; '.join(_missing(head[1:]))}"
    if found := CHOICE.search(text):
        choices = re.findall(r"'([^']*)'", found["choices"])
        return f"{found['flag']} {found['value']}: invalid choice{suggestion(found['value'], choices)}"
    if no_value is not None:
        return f"{no_value['flag']}: a value must follow"
    if found := UNREADABLE.search(text):
        return _unreadable(found["flag"], found["reason"])
    if text.startswith("Unrecognized options:"):
        return f"{text.partition(':')[2].strip()}: too many arguments"
    return text


def _first_section(frame: str) -> list[str]:
    """The lines inside a frame, without it, up to its first rule."""
    # Where the terminal has no signs for a frame, it is made of spaces.
    title, *others = [line.strip("│|╰╯").rstrip() for line in COLOUR.sub("", frame).splitlines()]
    first = next(filter(str.strip, RULE.split("\n".join(others))), title)
    return [line for line in first.splitlines() if line]


def _missing(lines: Sequence[str]) -> list[str]:
    """What is missing, each with its help, which is indented deeper."""
    entries = HELP_INDENT.sub(": ", "\n".join(lines)).splitlines()
    return [SHORT_FORM.sub("", entry.strip()).removesuffix("(required)").rstrip(" .") for entry in entries]


def _unreadable(flag: str, reason: str) -> str:
    if found := WRONG_TYPE.search(reason):
        return f"{flag} {found['value']}: {NUMBERS[found['type']]} needed"
    if found := WRONG_VALUES.search(reason):
        needed = NUMBERS.get(" ".join(re.findall("INT|FLOAT", found["types"] or "")), "numbers are")
        values = " ".join(re.findall("'(.*?)'", found["values"]))
        return f"{flag} {values}: {needed} needed"
    # A message of ours names the flag itself; the parser names the section.
    return reason if reason.startswith("--") or not flag.startswith("-") else f"{flag}: {reason}"


def _flag_suggestion(flag: str, known: dict[str, str]) -> str:
    """The flag of that name in another section, or the nearest one; of a letter, the only one that begins with it."""
    names = {plain.lstrip("-"): option for plain, option in known.items()}
    word = _plain(flag).lstrip("-")
    if SHORT.fullmatch(flag):
        near = [option for name, option in names.items() if name[:1] == word and name[1:] and "." not in name]
        near = [option for option in near if not option.startswith("--no-")]
        near = near if len(near) == 1 else []
    else:
        near = [option for name, option in names.items() if name.endswith(f".{word}")]
        # Without the dashes, in which all are alike.
        near = near or [names[name] for name in difflib.get_close_matches(word, names, n=1, cutoff=SURE)]
    return f"; did you mean {' or '.join(f'`{option}`' for option in near)}?" if near else ""


def _plain(flag: str) -> str:
    return flag.replace("_", "-")


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
