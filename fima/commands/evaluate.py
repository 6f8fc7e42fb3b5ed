"""`fima evaluate`: measure a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fima.commands.figures import choices, figures_table
from fima.commands.labelled import (
    LabelledArguments,
    evaluation_file,
    free_or_own,
    is_same_measurement,
    measure_labelled,
    say_what_was_left_out,
)
from fima.commands.parse import OUT
from fima.config.checks import require
from fima.console import Console
from fima.files.output import OutputFile

if TYPE_CHECKING:
    from fima.evaluate.evaluate import Collected


RICHER = "--features grid depths --other-windows stride=2"
"""What the probe does better with on a few hundred videos (docs/small_data.md), at twice the time."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(LabelledArguments):
    """Evaluate a checkpoint on labelled videos, with its weights frozen.

    Takes any checkpoint with an encoder, from `fima pretrain`, `fima finetune`, the authors' program or MoCo-style
    code, and encoders of other programs. docs/protocols.md describes the protocols. Start it under `torchrun` to use
    several devices. For example: `fima evaluate runs/mine LABELLED --protocols linear knn`.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A checkpoint, or the folder of a run; `torchvision:NAME` or `torchvision:NAME:FILE`; `hf:FOLDER`, a VideoMAE,
    V-JEPA 2 or TimeSformer of `transformers`; FILE.onnx; `module:function`, which returns a `fima.FrozenEncoder`."""
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LABELLED")]
    """Folder or table of videos with classes and a train/test split."""
    out: Annotated[OutputFile | None, OUT] = None
    """The JSON to write. None: `evaluation/<checkpoint>.json` in the folder of the run, or in
    `<encoder>-evaluation/` where the encoder is not a file; with a number where that holds other protocols, clips,
    features, videos or seeds. Confusion matrices and accuracies by class go to a folder of the same name next to it."""
    backbone: str | None = None
    """Architecture that the checkpoint must have. None: any."""
    diagnose: bool = False
    """Short for `--protocols diagnosis`: the accuracy without order, motion, foreground or background."""
    list_protocols: bool = False
    """List the protocols, their versions, what they measure and what they need, and exit."""

    def __post_init__(self) -> None:
        # Class tables go to the folder of the same name without it.
        require(self.out is None or self.out.suffix == ".json", "out", self.out, "must end in .json")


def main(arguments: EvaluateArguments) -> None:
    """Run the command."""
    if arguments.diagnose:
        given = arguments.config.protocols or ()
        config = replace(arguments.config, protocols=tuple(dict.fromkeys((*given, "diagnosis"))))
        arguments = replace(arguments, config=config)
    words = (arguments.checkpoint,)
    for collected in measure_labelled(arguments, arguments.data, words, backbone=arguments.backbone):
        _write(arguments, collected)


def _write(arguments: EvaluateArguments, collected: Collected) -> None:
    subject = collected.subject
    own = partial(is_same_measurement, collected=collected)
    out = arguments.out or free_or_own(evaluation_file(subject), own)
    reports = out.with_suffix("")
    result, _ = collected.result(reports)
    result.save(out)
    say_what_was_left_out(result)
    if arguments.json:
        print(out.read_text(encoding="utf-8"), end="")
        return
    Console().print(figures_table(result, f"{arguments.checkpoint} · {subject.encoder.name}"))
    for sentence in choices(result):
        print(sentence)
    config = arguments.config
    if result.encoder.get("backbone") == "small" and "linear" in result.protocols and len(config.candidates) == 1:
        print(f"with few videos, the probe may get more from `small`, in twice the time, by {RICHER}")
    if result.verdict:
        print(result.verdict)
    print(f"wrote {out}" + (f" and confusion matrices in {reports}" if reports.is_dir() else ""))
