"""Command-line flags as dataclasses, parsed by tyro."""

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar, cast, get_args, get_type_hints

import docstring_parser
import tyro

from fima.checkpoints.run_folder import RunFolder
from fima.commands.flag_errors import DASHED_NAME, flags_in, one_line_error, read_page, terminal_of
from fima.commands.verbosity import QUIET, VERBOSE
from fima.console import wrapped
from fima.errors import ConfigError
from fima.files.output import IS_FILE, IS_WRITTEN, OutputPath, check_writable
from fima.recipe import RunSettings, preset_recipe, read_recipe

UNBROKEN = 100_000
"""Columns of a terminal on which no line is broken."""
POSITIONAL = get_args(tyro.conf.Positional[int])[1]
RECIPE_SUFFIXES = (".yaml", ".yml")

OUT = tyro.conf.arg(aliases=["-o"])
"""Of the flag `out` of every command that has one: `-o`, for short."""

Device = Annotated[str, tyro.conf.arg(help="`auto` uses a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, …")]
"""The type of the flag `device`, with its help."""

Arguments = TypeVar("Arguments")


def one_or_more(what: str) -> object:
    """Describe a positional argument that is given once or more; the parser alone would call it optional."""
    return tyro.conf.arg(metavar=f"{what} ...", help_behavior_hint="(required)")


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """The flags of both kinds of training: where a run goes, and whether it is a new one."""

    out: Annotated[OutputPath, OUT]
    """Folder of the run: settings, metrics and checkpoints."""
    checkpoints: OutputPath | None = None
    """Folder of the checkpoints. None: `checkpoints` in the folder of the run."""
    resume: bool = False
    """Continue the run in `--out` from its last checkpoint."""
    auto_resume: bool = False
    """Continue the run in `--out` if there is one, else start it: a job can be requeued as it is."""
    smoke: bool = False
    """Try the settings: one epoch of a few small videos, synthetic ones if no folder is given."""

    def __post_init__(self) -> None:
        if self.resume and self.auto_resume:
            raise ConfigError("--resume needs a run in --out, --auto-resume starts one if there is none; give one")

    @property
    def is_resumed(self) -> bool:
        """Whether to continue the run in `out`: with `resume` it must be there, with `auto_resume` it may."""
        return self.resume or (self.auto_resume and RunFolder(self.out).config.exists())

    def videos(self, given: Path | None) -> Path:
        """Return the folder of videos that was given, or with `smoke` one of synthetic videos; ConfigError for none."""
        if given is not None:
            return given
        if not self.smoke:
            raise ConfigError("no folder of videos given; name it first, or add --smoke to try synthetic videos")
        # Making videos needs their encoder, which `--help` need not wait for.
        from fima.synthetic.smoke import smoke_videos

        return smoke_videos(self.out)


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run a command with the words after its name, and return its exit code.

    It is `main` in the module of that name; the class of the arguments that it takes has its flags. Leaves with
    SystemExit after `--help`. Raises ConfigError where a flag or a value is wrong or missing, or a place for results
    cannot be written, and what the command raises.
    """
    main = importlib.import_module(f"fima.commands.{name.replace('-', '_')}").main
    code: int | None = main(parse(get_type_hints(main)["arguments"], argv, prog=f"fima {name}"))
    return code or 0


@contextlib.contextmanager
def _paragraphs_joined() -> Iterator[None]:
    """Let tyro wrap the docstring of a flag as one paragraph: it breaks it where the source does, and remembers it."""
    read = docstring_parser.parse_from_object

    def read_joined(*given: Any, **named: Any) -> docstring_parser.Docstring:  # noqa: ANN401
        found = read(*given, **named)
        for parameter in found.params:
            parameter.description = " ".join((parameter.description or "").split())
        return found

    docstring_parser.parse_from_object = read_joined
    try:
        yield
    finally:
        docstring_parser.parse_from_object = read


class _Wrapping:
    """A stream that breaks lines between words: tyro does so with those of flags, and with all that are coloured."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, its lines broken; return how many characters were written."""
        return self._stream.write(text if "\x1b" in text else wrapped(text))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)


@_paragraphs_joined()
def parse(kind: type[Arguments], argv: Sequence[str], *, prog: str) -> Arguments:
    """Parse the flags of one command: the fields of a dataclass, whose docstring is the help.

    `prog` is what help and errors call the command. The flags of a training that are not given are those of its recipe.
    """
    words, options = [_as_meant(word) for word in argv], {}
    if issubclass(kind, RunArguments):
        given = {each.name: tyro.MISSING for each in fields(kind) if each.default is each.default_factory is MISSING}
        given["config"] = default_settings(words, get_type_hints(kind)["config"])
        words, options = _recipe_beside_sets(words), {"default": kind(**given)}
    run: Callable[..., Arguments] = partial(tyro.cli, kind, prog=prog, **options)
    if {"-h", "--help"} & set(words):
        with contextlib.redirect_stdout(cast(TextIO, _Wrapping(sys.stdout))):
            return run(args=words)
    errors = io.StringIO()
    try:
        with terminal_of(UNBROKEN), contextlib.redirect_stderr(errors):
            arguments = run(args=words)
    except SystemExit:
        page = read_page(lambda: run(args=["--help"]))
        usage = page.partition("\n")[0].removeprefix("usage: ").replace("[-h] ", "")
        flags = [*flags_in(page), QUIET, VERBOSE]
        message = one_line_error(errors.getvalue(), words=words, flags=flags, usage=usage)
        raise ConfigError(f"{message} (`{prog} --help` lists the flags)") from None
    _check_outputs(kind, arguments)
    return arguments


def _check_outputs(kind: type[Arguments], arguments: Arguments) -> None:
    """Try the places that a command writes to, in the process that does."""
    if os.environ.get("RANK", "0") != "0":
        return
    for name, hint in get_type_hints(kind, include_extras=True).items():
        place, marks = getattr(arguments, name), _marks(hint)
        if IS_WRITTEN in marks and place is not None:
            check_writable(place, flag=None if POSITIONAL in marks else name, is_file=IS_FILE in marks)


def _marks(hint: Any) -> list[Any]:  # noqa: ANN401
    """What `Annotated` says of a type, also inside a union."""
    inner = [mark for part in get_args(hint) for mark in _marks(part)]
    return [*getattr(hint, "__metadata__", ()), *inner]


def _as_meant(word: str) -> str:
    """`--out=~/runs` with the home folder, which shells put in only where a word begins with `~`; a file `-1.mp4`."""
    if DASHED_NAME.match(word) and os.path.lexists(word):
        return f"./{word}"
    flag, equals, value = word.partition("=")
    whole = flag.startswith("-") and value.split("/")[0] == "~"
    return f"{flag}{equals}{Path(value).expanduser()}" if whole else word


def default_settings(words: Sequence[str], kind: type[RunSettings]) -> RunSettings:
    """Return the settings that flags change: those of the recipe or preset, else of the resumed run, else the paper's.

    They must be known before the flags are checked, since a flag may only make sense with them. Raises ConfigError
    where they cannot be read, or a recipe and a preset are given.
    """
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scout.add_argument("-o", "--out", nargs="?", type=Path)
    scout.add_argument("--preset", nargs="?")
    scout.add_argument("--resume", "--auto-resume", action="store_true")
    known, others = scout.parse_known_args(list(words))
    recipes = [Path(word) for word in others if is_recipe(Path(word))]
    if known.preset is not None:
        if recipes:
            raise ConfigError(f"--preset {known.preset} and {recipes[0]}: give one of them")
        return read_recipe(preset_recipe(known.preset), kind)
    if recipes:
        return read_recipe(recipes[0], kind)
    if known.resume and known.out is not None and RunFolder(known.out).config.exists():
        return RunFolder(known.out).read_config(kind)
    return kind()


def _recipe_beside_sets(words: list[str]) -> list[str]:
    """The words with a recipe that comes later moved next to several sets at their beginning, for the parser's sake."""
    num_sets = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    later = words[num_sets:]
    words_after = (word for before, word in pairwise(later) if before not in ("-o", "--out"))
    recipe = next((word for word in words_after if not word.startswith("-") and is_recipe(Path(word))), None)
    if num_sets < 2 or recipe is None:
        return words
    later.remove(recipe)
    return [*words[:num_sets], recipe, *later]


def check_recipe(path: Path | None) -> None:
    """Raise ConfigError, with what a recipe looks like, for a second folder where one is expected."""
    if path is not None and not is_recipe(path):
        raise ConfigError(f"{path}: a recipe is a .yaml file; only one folder of videos can be given")


def is_recipe(path: Path) -> bool:
    """Whether a word of the command line names a recipe."""
    return path.suffix in RECIPE_SUFFIXES
