"""`fima completion`: commands and options for the Tab key."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import tyro

from fima.commands import COMMANDS
from fima.commands.flag_errors import POSITIONAL, flags_in, read_page
from fima.commands.parse import run_command
from fima.commands.verbosity import QUIET, VERBOSE

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

    For example: `fima completion bash > ~/.fima_completion`, and `source ~/.fima_completion` in `~/.bashrc`; for zsh,
    the same with `fima completion zsh` and `~/.zshrc`.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Your shell."""


def main(arguments: CompletionArguments) -> None:
    """Run the command."""
    print(completion_script(arguments.shell), end="")


def completion_script(shell: Literal["bash", "zsh"]) -> str:
    """Return the script; options and their values are those that the help of each command names.

    Where it has no word to offer, the shell completes names of files. The script that tyro writes
    (`--tyro-print-completion`) has no names of files for arguments without a flag, and splits those with blanks.
    """
    options, choices = [], []
    for command in COMMANDS:
        page = read_page(partial(run_command, command, ["--help"]))
        values = {QUIET: [], VERBOSE: [], **flags_in(page)}
        options.append(f'            {command}) words="{" ".join(sorted(values.keys() - {POSITIONAL}))}" ;;')
        for flag, offered in values.items():
            if offered:
                choices.append(f'            "{command} {flag or command}") words="{" ".join(offered)}" ;;')
    script = SCRIPT.format(commands=" ".join(COMMANDS), options="\n".join(options), choices="\n".join(choices))
    return ZSH + script if shell == "zsh" else script
