"""`fima pretrain`: pre-train an encoder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fima.backbones.registry import BACKBONES
from fima.commands.output import show_next
from fima.commands.parse import RunArguments, is_recipe
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


def main(arguments: PretrainArguments) -> int:
    """Run the command and return its exit code: 0, or 128 + the signal that stopped the run."""
    sets = _sets(arguments)
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


def _sets(arguments: PretrainArguments) -> list[TrainingSet]:
    """The sets of videos among the words without a flag. Raises ConfigError for flags that exclude each other."""
    given = [word for word in (arguments.data, arguments.recipe, *arguments.more) if word is not None]
    recipes = [word for word in given if is_recipe(Path(word))]
    if len(recipes) > 1:
        raise ConfigError(f"{' and '.join(recipes)}: only one recipe can be given")
    if arguments.resume and (arguments.resume_from is not None or arguments.start_epoch is not None):
        raise ConfigError("--resume continues the run in --out; --resume-from and --start-epoch are for a new run")
    require_least(arguments, start_epoch=0)
    BACKBONES.check(arguments.config.model.backbone, flag="model.backbone")
    return [training_set(word) for word in given if word not in recipes]
