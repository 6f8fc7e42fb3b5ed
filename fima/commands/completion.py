"""`fima completion`: commands and options for the Tab key."""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from fima.commands.parse import parse

OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
SCRIPT = """\
_fima() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
        *) local options="" ;;
    esac
    case "$word" in
        -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
        *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}}
complete -o filenames -F _fima fima
"""


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """Print a script that completes commands, options and file names.

    For example: `fima completion bash > ~/.fima_completion`, and `source ~/.fima_completion` in `~/.bashrc`.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """The shell that it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(CompletionArguments, argv, prog="fima completion")
    print(completion_script(arguments.shell), end="")
    return 0


def completion_script(shell: Literal["bash", "zsh"]) -> str:
    """Return the script; the options are those that the help of each command names."""
    # The table of commands imports nothing of this module, which it names.
    from fima.cli import COMMANDS

    cases = "\n".join(f'        {name}) local options="{" ".join(_options(name))}" ;;' for name in COMMANDS)
    script = SCRIPT.format(commands=" ".join(COMMANDS), cases=cases)
    return ZSH + script if shell == "zsh" else script


def _options(command: str) -> list[str]:
    from fima.cli import main as run

    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        run([command, "--help"])
    return sorted(set(OPTION.findall(page.getvalue())))
