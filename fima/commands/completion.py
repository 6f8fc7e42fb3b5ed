"""`fima completion`: commands and options for the Tab key."""

import contextlib
import importlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from fima.commands import COMMANDS
from fima.commands.flag_errors import COLOUR
from fima.commands.parse import parse, terminal_of
from fima.commands.verbosity import QUIET, VERBOSE

ENTRY = re.compile(r"^(?:│ |  )(?P<names>[-{].*?)(?: {2,}|│|$)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
CHOICES = re.compile(r"\{([\w.,-]+)\}")
COLUMNS = 110
"""Width of the help page that is read: every option begins a line, and none is broken."""
ZSH = """\
(( $+functions[compdef] )) || { autoload -U compinit && compinit }
autoload -U +X bashcompinit && bashcompinit
"""
SCRIPT = """\
_fima() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    elif [ "${{word:0:1}}" = "-" ]; then
        case "${{COMP_WORDS[1]}}" in
{options}
        esac
    else
        case "${{COMP_WORDS[1]}} $before" in
{choices}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _fima fima
"""


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """Print a script that completes commands, options and file names.

    For example: `fima completion bash > ~/.fima_completion`, and `source ~/.fima_completion` in `~/.bashrc` (for zsh:
    `fima completion zsh`, and `~/.zshrc`).
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """The shell that it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(CompletionArguments, argv, prog="fima completion")
    print(completion_script(arguments.shell), end="")
    return 0


def completion_script(shell: Literal["bash", "zsh"]) -> str:
    """Return the script; options and their values are those that the help of each command names.

    Where it has no word to offer, the shell completes names of files.
    """
    options, choices = [], []
    for command in COMMANDS:
        found = _words(command)
        options.append(f'            {command}) words="{" ".join(sorted(found.keys() - {command}))}" ;;')
        for before, values in found.items():
            if values:
                choices.append(f'            "{command} {before}") words="{" ".join(values)}" ;;')
    script = SCRIPT.format(commands=" ".join(COMMANDS), options="\n".join(options), choices="\n".join(choices))
    return ZSH + script if shell == "zsh" else script


def _words(command: str) -> dict[str, list[str]]:
    """What may follow each option of a command, and the command itself; nothing where that is up to the user."""
    found: dict[str, list[str]] = {QUIET: [], VERBOSE: []}
    for line in _help(command).splitlines():
        if entry := ENTRY.match(line):
            values = ",".join(CHOICES.findall(entry["names"])).split(",")
            for name in OPTION.findall(entry["names"]) or [command] * entry["names"].startswith("{"):
                found[name] = [value for value in values if value not in ("", "None")]
    return found


def _help(command: str) -> str:
    page = io.StringIO()
    with terminal_of(COLUMNS), contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        importlib.import_module(COMMANDS[command][0]).main(["--help"])
    return COLOUR.sub("", page.getvalue())
