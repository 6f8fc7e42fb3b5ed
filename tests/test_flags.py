"""The list of all flags of all commands, in flags.txt: none disappears, or takes other values, unnoticed."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from fima.authors.main import main as run_authors_program
from fima.cli import main
from fima.commands import COMMANDS
from fima.commands.parse import parse
from fima.commands.pretrain import PretrainArguments

LIST = Path(__file__).with_name("flags.txt")
COLUMNS = "110"
"""Wide enough for the longest flag; on wider terminals, two frames stand side by side."""
TITLE = re.compile(r"^(?:╭─ )?(?P<title>[a-z ]+?)(?: ─+╮|:)$")
VALUE_TWICE = re.compile(r"^(-\S+) (\S+), (-\S+ \2)$")
"""An entry of argparse before Python 3.13, which writes the value once."""
ENTRY = re.compile(r"^(?:│ |  )(?P<names>[-\[{A-Z].*?)(?: {2,}|│|$)")


def flags_in(page: str) -> list[str]:
    """Return the names and the kinds of values of a help page, in its order."""
    found, title = [], ""
    for line in page.splitlines():
        if heading := TITLE.match(line):
            title = heading["title"]
        elif (entry := ENTRY.match(line)) and (entry["names"][0] == "-" or title == "positional arguments"):
            found.append(entry["names"].strip())
    return found


def help_page(name: str) -> str:
    """Return what `--help` of `fima COMMAND`, `train.py` or `eval.py` prints."""
    page = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(page):
        patch.setenv("COLUMNS", COLUMNS)
        if name.endswith(".py"):
            run_authors_program("train" if name == "train.py" else "eval", ["--help"])
        else:
            main([name.removeprefix("fima "), "--help"])
        page.seek(0)
        return page.read()


def all_flags() -> list[str]:
    ours = [f"fima {command} {flag}" for command in COMMANDS for flag in flags_in(help_page(f"fima {command}"))]
    theirs = [(name, flag) for name in ("train.py", "eval.py") for flag in flags_in(help_page(name))]
    return ours + [name + " " + VALUE_TWICE.sub(r"\1, \3", flag) for name, flag in theirs]


def test_the_help_of_every_command_names_the_flags_of_the_list() -> None:
    listed, found = LIST.read_text(encoding="utf-8").splitlines(), all_flags()
    missing = [flag for flag in listed if flag not in found]
    added = [flag for flag in found if flag not in listed]
    assert (missing, added) == ([], []), "lost or new; if meant so, write: python -m tests.test_flags > tests/flags.txt"


def test_out_has_a_short_form_wherever_it_is() -> None:
    outs = [line for line in LIST.read_text(encoding="utf-8").splitlines() if re.search(r" --out\b(?!put)", line)]
    assert len(outs) > 10
    assert [line for line in outs if " -o " not in line] == []


@pytest.mark.parametrize("command", ["cam", "compare", "predict", "report"])
def test_what_is_given_once_or_more_is_required(command: str) -> None:
    positional = help_page(f"fima {command}").partition("--help")[0]
    assert " ... " in positional
    assert "(default: )" not in positional


@pytest.mark.parametrize(
    "words", [("clip.mp4", "other", "-o", "run", "mine.yaml"), ("clip.mp4", "-o=run", "mine.yaml")]
)
def test_a_recipe_and_a_run_are_found_beside_the_short_form(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optim:\n  epochs: 3\n")
    given = [str(tmp_path / word) if word.endswith(".yaml") else word for word in words]
    arguments = parse(PretrainArguments, given, prog="fima pretrain")
    assert arguments.out == Path("run")
    assert arguments.config.optim.epochs == 3


if __name__ == "__main__":
    print("\n".join(all_flags()))
