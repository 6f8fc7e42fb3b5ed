"""`fima evaluate`: measure a checkpoint."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fima.commands.figures import figures_table, protocols_table
from fima.commands.parse import errors_in_one_line, parse
from fima.commands.progress import progress
from fima.config import Dataset
from fima.console import Console
from fima.data.datasets import recognise
from fima.errors import ConfigError
from fima.evaluate.folds import list_folds
from fima.evaluate.protocols import EvaluationConfig, SplitLists, SplitName
from fima.evaluate.splits import list_splits
from fima.files.output import check_writable

if TYPE_CHECKING:
    import torch

    from fima.evaluate.evaluate import Collected
    from fima.evaluate.frozen import FrozenEncoder
    from fima.evaluate.loaded_model import Subject


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a checkpoint on labelled videos, with its weights frozen.

    Takes the encoder of any checkpoint: of `fima pretrain` and `fima finetune`, of the authors' program and MoCo-style
    ones; and those of other programs. docs/protocols.md says what each protocol is. Start it under `torchrun` to use
    several devices. For example: `fima evaluate runs/mine LABELLED --protocols linear knn`.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A checkpoint, or the folder of a run; `torchvision:NAME` or `torchvision:NAME:FILE`; `hf:FOLDER`, a VideoMAE,
    V-JEPA 2 or TimeSformer of `transformers`; FILE.onnx; `module:function`, which returns a `fima.FrozenEncoder`."""
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LABELLED")]
    """Folder or table of videos with classes and a train/test split."""
    out: Path | None = None
    """The JSON to write. None: `evaluation/<checkpoint>.json` in the folder of the run, or
    `<encoder>-evaluation/` where the encoder is no file. Confusion matrices and
    accuracies by class go to a folder of the same name next to it."""
    dataset: Dataset = "auto"
    """Layout of the data; `auto` detects it."""
    annotations: Path | None = None
    """List file or folder of list files, if they are not with the videos."""
    splits: tuple[int, ...] | None = None
    """Numbers of the official splits; several give mean and standard deviation. None: split 1, or the one that a
    classifier was trained on."""
    backbone: str | None = None
    """The architecture that the checkpoint must have. None: the one that it holds."""
    device: str = "auto"
    """`auto` uses a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, …"""
    diagnose: bool = False
    """Short for `--protocols diagnosis`: what remains of the classes without order, motion, foreground, background."""
    list_protocols: bool = False
    """List the protocols with their versions, what they measure and what they need; nothing else is done."""
    json: bool = False
    """Print the result as JSON instead of a table."""
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    if "--list-protocols" in (sys.argv[1:] if argv is None else argv):
        # Before the other arguments are read, since it needs none of them.
        Console().print(protocols_table())
        return 0
    arguments = parse(EvaluateArguments, argv, prog="fima evaluate")
    # Loading PyTorch takes seconds, which help and a mistyped flag need not wait for.
    from fima.torch_tools import distributed
    from fima.torch_tools.device import choose_device

    if arguments.diagnose:
        given = arguments.config.protocols or ()
        config = replace(arguments.config, protocols=tuple(dict.fromkeys((*given, "diagnosis"))))
        arguments = replace(arguments, config=config)
    if arguments.out is not None:
        check_writable(arguments.out, flag="out")
    try:
        with errors_in_one_line():
            device = distributed.init_from_environment(choose_device(arguments.device))
            subject = _load(arguments, device)
            out = arguments.out or evaluation_file(subject.encoder)
            cache = evaluation_file(subject.encoder).parent / "cache"
            check_writable(out, flag="out")
            check_writable(cache.parent)  # of features, to be used again
            splits = _list(arguments, subject)
            is_main = distributed.is_main()
            if is_main:
                _say_aloud(subject, splits)
            collected = _collect(arguments, subject, splits, device, cache)
    finally:
        # The others need not wait for the arithmetic, which the main process does alone.
        distributed.shutdown()
    if is_main:
        _write(arguments, subject, collected, out)
    return 0


def evaluation_file(encoder: FrozenEncoder) -> Path:
    """Return where results of an encoder go: in the folder of its run, or next to a checkpoint that lies alone.

    Those of an encoder that comes with the package, whose folder may be read-only, and of one that is no file go to the
    current folder.
    """
    from fima.checkpoints.pretrained import ENCODERS

    if encoder.file is None or encoder.file.is_relative_to(ENCODERS):
        name = re.sub(r"[^\w.-]+", "-", encoder.name if encoder.file is None else encoder.file.parent.name)
        return Path(f"{name}-evaluation", f"{name}.json")
    folder = encoder.file.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    return folder / "evaluation" / f"{encoder.file.stem}.json"


def _load(arguments: EvaluateArguments, device: torch.device) -> Subject:
    from fima.evaluate.loaded_model import load_subject

    return load_subject(arguments.checkpoint, config=arguments.config, device=device, backbone=arguments.backbone)


def _list(arguments: EvaluateArguments, subject: Subject) -> dict[SplitName, SplitLists]:
    numbers, config = arguments.splits, arguments.config
    if config.cross_validation is not None or config.folds is not None:
        if numbers is not None:
            flag = "--folds" if config.cross_validation is None else "--cross-validation"
            raise ConfigError(f"--splits {' '.join(map(str, numbers))}: {flag} makes its own; give one of the two")
        return list_folds(arguments.data, config, dataset=arguments.dataset, annotations=arguments.annotations)
    if numbers is None:
        name = arguments.dataset
        name = recognise(arguments.data, arguments.annotations) if name == "auto" else name
        numbers = (subject.own_split(name),)
    return list_splits(
        arguments.data,
        numbers,
        dataset=arguments.dataset,
        annotations=arguments.annotations,
        group_by=config.group_by,
    )


def _say_aloud(subject: Subject, splits: Mapping[SplitName, SplitLists]) -> None:
    """Print what was assumed, and what is odd about the lists."""
    lists = (videos for split in splits.values() for videos in (split.train, split.test))
    sentences = [subject.assumption] if subject.assumption else []
    for sentence in dict.fromkeys([*sentences, *(sentence for videos in lists for sentence in videos.warnings())]):
        print(f"fima: warning: {sentence}", file=sys.stderr)


def _collect(
    arguments: EvaluateArguments,
    subject: Subject,
    splits: Mapping[SplitName, SplitLists],
    device: torch.device,
    cache: Path,
) -> Collected:
    from fima.evaluate.evaluate import collect
    from fima.synthetic.motion_textures import has_masks, load_mask

    with progress("features") as report:
        return collect(
            subject,
            splits,
            arguments.config,
            source=arguments.checkpoint,
            device=device,
            load_mask=load_mask if has_masks(arguments.data) else None,
            cache=cache,
            report=report,
        )


def _write(arguments: EvaluateArguments, subject: Subject, collected: Collected, out: Path) -> None:
    reports = out.with_suffix("")
    result = collected.result(reports)
    result.save(out)
    if arguments.json:
        print(out.read_text(encoding="utf-8"), end="")
        return
    Console().print(figures_table(result, f"{arguments.checkpoint} · {subject.encoder.name}"))
    print(f"clips: {subject.preprocessing}")
    if result.verdict:
        print(result.verdict)
    print(f"wrote {out}" + (f" and confusion matrices in {reports}" if reports.is_dir() else ""))
