"""`fima pretrain`: pre-train an encoder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fima.backbones.registry import check_backbone
from fima.commands.output import show_next
from fima.commands.parse import RunArguments, default_settings, is_recipe, parse
from fima.config import PretrainConfig
from fima.config.checks import require_least
from fima.data.training_sets import TrainingSet, training_set
from fima.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PretrainArguments(RunArguments):
    """Pre-train an encoder on a folder of videos, without labels.

    A recipe (YAML) gives the settings their defaults; flags go before the recipe. Start it under `torchrun` to use
    several devices. For example: `fima pretrain VIDEOS --out runs/mine recipes/motion_textures_fima.yaml`.
    """

    data: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[VIDEOS]")] = None
    """Folder of videos, or a table; not needed with --smoke."""
    recipe: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[RECIPE]")] = None
    """YAML file with settings, such as those under `recipes/`."""
    preset: str | None = None
    """A recipe of the package by its name, such as `small` for a few hundred videos, instead of a RECIPE."""
    more: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[VIDEOS ...]")] = ()
    """Further sets of videos, before the recipe; `FOLDER:2` comes twice as often as `FOLDER`, and
    `FOLDER@fps=12.5` has clips of its own timing (stride, fps, span or frame-rate)."""
    resume_from: Path | None = None
    """Start a new run from this checkpoint, or folder of a run: of `fima`, or of the authors' program."""
    start_epoch: int | None = None
    """Start a new run at this epoch of its schedule."""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 128 + the signal that stopped the run."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, sets = _parse(words)
    from fima.synthetic.smoke import shrink_pretrain
    from fima.train.pretrain import pretrain

    config = shrink_pretrain(arguments.config, synthetic=not sets) if arguments.smoke else arguments.config
    resume = arguments.is_resumed
    result = pretrain(
        config,
        data=sets or arguments.videos(None),
        out=arguments.out,
        checkpoints=arguments.checkpoints,
        resume=resume,
        resume_from=None if resume else arguments.resume_from,
        start_epoch=None if resume else arguments.start_epoch,
    )
    if result.signal_number is not None:
        return 128 + result.signal_number
    if not arguments.smoke:
        show_next(
            ["report", arguments.out, "-o", "report.html"],
            ["embed", arguments.out, *(str(each.root) for each in sets[:1]), "-o", "vectors.npz"],
            ["evaluate", arguments.out, "LABELLED", "--protocols", "linear", "knn"],
        )
    return 0


def _parse(words: list[str]) -> tuple[PretrainArguments, list[TrainingSet]]:
    """Parse the flags over the settings of the recipe, of the resumed run, or of the paper; and the sets of videos."""
    default = PretrainArguments(out=tyro.MISSING, config=default_settings(words, PretrainConfig))
    arguments = parse(PretrainArguments, _recipe_beside_sets(words), prog="fima pretrain", default=default)
    given = [word for word in (arguments.data, arguments.recipe, *arguments.more) if word is not None]
    recipes = [word for word in given if is_recipe(Path(word))]
    if len(recipes) > 1:
        raise ConfigError(f"{' and '.join(recipes)}: only one recipe can be given")
    if arguments.resume and (arguments.resume_from is not None or arguments.start_epoch is not None):
        raise ConfigError("--resume continues the run in --out; --resume-from and --start-epoch are for a new run")
    require_least(arguments, start_epoch=0)
    check_backbone(arguments.config.model.backbone, flag="model.backbone")
    return arguments, [training_set(word) for word in given if word not in recipes]


def _recipe_beside_sets(words: list[str]) -> list[str]:
    """The words with a recipe that comes later moved next to several sets at their beginning, for the parser's sake."""
    num_sets = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    later = words[num_sets:]
    recipe = next((word for word in later if not word.startswith("-") and is_recipe(Path(word))), None)
    if num_sets < 2 or recipe is None:
        return words
    later.remove(recipe)
    return [*words[:num_sets], recipe, *later]
