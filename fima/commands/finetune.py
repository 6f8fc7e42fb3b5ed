"""`fima finetune`: train a classifier on an encoder, and test it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fima.commands.figures import figures_table
from fima.commands.output import show_next
from fima.commands.parse import OUT, RunArguments, check_recipe, is_recipe
from fima.config import FinetuneConfig
from fima.console import Console
from fima.files.output import OutputPath


@dataclass(frozen=True, kw_only=True)
class FinetuneArguments(RunArguments):
    """Train a classifier on a pre-trained encoder, and test it on whole videos.

    By default the encoder is trained too; with --classifier.freeze only the linear layer is (linear probing). A recipe
    (YAML) gives the settings their defaults; flags go before the recipe. Start it under `torchrun` to use several
    devices. Frames and crop size are those that the encoder was trained on, unless a flag or a recipe gives others. For
    example: `fima finetune runs/mine LABELLED --out runs/classifier`.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder of a run, or a file with the encoder: of `fima pretrain`, of the authors' program, of torchvision, …; or
    `scratch` for random weights."""
    data: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[LABELLED]")] = None
    """Folder of videos with classes and a train/test split; not needed with --smoke."""
    recipe: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RECIPE]")] = None
    """YAML file with settings."""
    out: Annotated[OutputPath, OUT]
    """Folder of the run: settings, metrics, checkpoints, `result.json`, confusion matrix and accuracy by class."""
    preset: str | None = None
    """A recipe of the package by its name, such as `linear_ucf101`, instead of a RECIPE."""
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(default_factory=FinetuneConfig)


def main(arguments: FinetuneArguments) -> int:
    """Run the command and return its exit code: 0, or 128 + the signal that stopped the run."""
    is_alone = arguments.recipe is None and arguments.data is not None and is_recipe(arguments.data)
    given = None if is_alone else arguments.data
    data = arguments.videos(given)
    check_recipe(arguments.recipe)
    from fima.checkpoints.checkpoint import SCRATCH
    from fima.synthetic.smoke import shrink_finetune
    from fima.train.finetune import finetune

    outcome = finetune(
        shrink_finetune(arguments.config, synthetic=given is None) if arguments.smoke else arguments.config,
        pretrained=None if arguments.checkpoint == SCRATCH else Path(arguments.checkpoint),
        data=data,
        out=arguments.out,
        checkpoints=arguments.checkpoints,
        resume=arguments.is_resumed,
    )
    if outcome.signal_number is not None:
        return 128 + outcome.signal_number
    if outcome.result is not None:
        Console().print(figures_table(outcome.result, f"{arguments.checkpoint} · {data}"))
    if not arguments.smoke:
        show_next(["predict", arguments.out, "CLIP.mp4"])
    return 0
