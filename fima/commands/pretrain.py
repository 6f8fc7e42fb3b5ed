"""`fima pretrain`: pre-train an encoder."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fima.commands.parse import parse
from fima.config import PretrainConfig
from fima.engine.loop import pretrain
from fima.engine.run_folder import RunFolder
from fima.errors import ConfigError
from fima.recipe import read_recipe

PROG = "fima pretrain"
RECIPE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class PretrainArguments:
    """Pre-train a 3-D CNN on a folder of videos, without labels.

    A recipe (YAML) gives the settings their defaults; flags go before the recipe. Start it under `torchrun` to use
    several devices.
    """

    data: tyro.conf.Positional[Path]
    """Folder of videos."""
    recipe: tyro.conf.Positional[Path | None] = None
    """YAML file with settings, such as those under `recipes/`."""
    out: Path
    """Folder of the run: settings, metrics and checkpoints."""
    resume: bool = False
    """Continue the run in `--out` from its last checkpoint."""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 128 + the signal that stopped the run."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parse(words)
    result = pretrain(arguments.config, data=arguments.data, out=arguments.out, resume=arguments.resume)
    return 0 if result.signal_number is None else 128 + result.signal_number


def _parse(words: list[str]) -> PretrainArguments:
    """Parse the flags over the settings of the recipe, of the resumed run, or of the paper.

    Those defaults must be known before the flags are checked, since a flag may only make sense beside them.
    """
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scout.add_argument("--out", nargs="?", type=Path)
    scout.add_argument("--resume", action="store_true")
    known, others = scout.parse_known_args(words)
    recipes = [Path(word) for word in others if Path(word).suffix in RECIPE_SUFFIXES]
    config = PretrainConfig()
    if recipes:
        config = read_recipe(recipes[0])
    elif known.resume and known.out is not None and RunFolder(known.out).config.exists():
        config = RunFolder(known.out).read_config()
    default = PretrainArguments(data=tyro.MISSING, out=tyro.MISSING, config=config)
    arguments = parse(PretrainArguments, words, prog=PROG, default=default)
    if arguments.recipe is not None and arguments.recipe.suffix not in RECIPE_SUFFIXES:
        raise ConfigError(f"{arguments.recipe}: a recipe is a .yaml file; only one folder of videos can be given")
    return arguments
