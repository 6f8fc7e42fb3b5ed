"""What the parser of the flags finds wrong, in the one line that every error of `fima` is."""

import difflib
import re
from collections.abc import Sequence

from fima.errors import suggestion

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
RULE = re.compile(r"[─-]{5,}")
CHOICE = re.compile(
    r"invalid choice '(?P<value>.*)' for argument '(?P<flag>.*?)'\. Expected one of \((?P<choices>.*)\)"
)
NO_VALUE = re.compile(r"Missing value for argument '(?P<flag>.*?)'")
UNREADABLE = re.compile(r"Error parsing (?P<flag>\S+): (?P<reason>.*)")
NOT_A_NUMBER = re.compile(
    r"(?:invalid literal for (?P<whole>int)\(\).*|could not convert string to float): ?'(?P<value>.*)'"
)
NO_TYPE = re.compile(r"no type matching (?P<types>\S.*?) could be instantiated from \['?(?P<value>.*?)'?\]")
NAME_INDENT, HELP_INDENT = 4, 8
SURE = 0.6
"""How alike a mistyped flag and the one that was meant are, at least."""


def told_in_one_line(frame: str, *, words: Sequence[str], options: Sequence[str], usage: str = "") -> str:
    """Return what a frame of the parser says, as one line.

    What it does not know, it passes on as it is, without the frame.

    Args:
        frame: what the parser printed, in lines that are not broken.
        words: what was typed.
        options: the flags that there are.
        usage: how the command is called.
    """
    sections = _sections(frame)
    unknown = [word.split("=")[0] for word in words if word.startswith("--") and not _is_known(word, options)]
    head = sections[0] if sections else [frame]
    text = " ".join(line.strip() for line in head)
    no_value = NO_VALUE.search(text)
    # A flag in the place of a word, such as the folder of videos, which the parser calls by a name of the program.
    lacks_word = no_value is not None and not no_value["flag"].startswith("-")
    if unknown and (lacks_word or "Unrecognized options" in frame):
        return f"{unknown[0]}: there is no such flag{_flag_suggestion(unknown[0], options)}"
    if lacks_word:
        return f"a word is missing: {usage}"
    if text.startswith("Missing from"):
        return f"missing: {'; '.join(_missing(head[1:]))}"
    if found := CHOICE.search(text):
        choices = re.findall(r"'([^']*)'", found["choices"])
        return f"{found['flag']} {found['value']}: no such choice{suggestion(found['value'], choices)}"
    if no_value is not None:
        return f"{no_value['flag']}: a value must follow"
    if found := UNREADABLE.search(text):
        return _unreadable(found["flag"], found["reason"])
    if text.startswith("Unrecognized options:"):
        return f"{text.partition(':')[2].strip()}: more words than this command takes"
    return text


def option_names(page: str) -> list[str]:
    """Return the flags that a help page names."""
    return sorted(set(OPTION.findall(COLOUR.sub("", page))))


def _sections(frame: str) -> list[list[str]]:
    """The lines inside a frame, without it, parted where it has a rule."""
    sections: list[list[str]] = [[]]
    for line in COLOUR.sub("", frame).splitlines()[1:]:
        # Where the terminal has no signs for a frame, it is made of spaces.
        inner = line.strip("│|╰╯").rstrip() if line[:1] in "│|╰" else line.rstrip()
        if RULE.fullmatch(inner.strip()):
            sections.append([])
        elif inner:
            sections[-1].append(inner)
    return [section for section in sections if section]


def _missing(lines: Sequence[str]) -> list[str]:
    """What is missing, each with its help, which is indented deeper."""
    found: list[str] = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if indent >= HELP_INDENT and found:
            found[-1] += f" {line.strip()}"
        elif indent >= NAME_INDENT:
            found.append(f"{line.strip()}:")
    return [each.removesuffix("(required)").rstrip(" .") for each in found]


def _unreadable(flag: str, reason: str) -> str:
    if number := NOT_A_NUMBER.search(reason):
        return f"{flag} {number['value']}: {'a whole number' if number['whole'] else 'a number'} is needed"
    if other := NO_TYPE.search(reason):
        wanted = "a whole number" if "INT" in other["types"] else "a number" if "FLOAT" in other["types"] else None
        return f"{flag} {other['value']}: {wanted or other['types']} is needed"
    # What a check of ours says names the flag itself; the parser names the section.
    return reason if reason.startswith("--") or not flag.startswith("-") else f"{flag}: {reason}"


def _is_known(word: str, options: Sequence[str]) -> bool:
    return _plain(word.split("=")[0]) in map(_plain, options)


def _flag_suggestion(flag: str, options: Sequence[str]) -> str:
    """The flag of that name in another section, or the nearest one; nothing where none is near."""
    by_plain = {_plain(option): option for option in options}
    word = _plain(flag)
    near = [option for plain, option in by_plain.items() if plain.endswith(f".{word[2:]}")]
    near = near or [by_plain[plain] for plain in difflib.get_close_matches(word, by_plain, n=1, cutoff=SURE)]
    return f"; did you mean {' or '.join(f'`{option}`' for option in near)}?" if near else ""


def _plain(flag: str) -> str:
    return flag.replace("_", "-")
