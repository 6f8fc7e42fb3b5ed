"""`fima evaluate`: measure a checkpoint."""

from __future__ import annotations

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
    from fima.evaluate.loaded_model import Subject


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a checkpoint on labelled videos, with its weights frozen.

    Takes the encoder of any checkpoint: of `fima pretrain` and `fima finetune`, of the authors' program and MoCo-style
    ones, torchvision's weights. docs/protocols.md says what each protocol is. Start it under `torchrun` to use several
    devices. For example: `fima evaluate runs/mine LABELLED --protocols linear knn`.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """The checkpoint, or the folder of a run."""
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LABELLED")]
    """Folder or table of videos with classes and a train/test split."""
    out: Path | None = None
    """The JSON to write. None: `evaluation/<checkpoint>.json` in the folder of the run; `small-evaluation/` for the
    encoder `small`. Confusion matrices and accuracies by class go to a folder of the same name beside it."""
    dataset: Dataset = "auto"
    """Layout of the data; `auto` detects it."""
    annotations: Path | None = None
    """List file or folder of list files, if they are not with the videos."""
    splits: tuple[int, ...] | None = None
    """Numbers of the official splits; several give mean and standard deviation. None: split 1, or the one that a
    classifier was trained on."""
    backbone: str | None = None
    """The architecture that the checkpoint must have. None: the one that it holds."""
    frames: int | None = None
    """Frames per clip. None: as in training; 16 where the checkpoint does not say."""
    crop_size: int | None = None
    """Side of the crops, in pixels. None: as in training; 224 where the checkpoint does not say."""
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
    from fima.checkpoints.pretrained import encoder_file
    from fima.torch_tools import distributed
    from fima.train.resolve import choose_device

    arguments = replace(arguments, checkpoint=encoder_file(arguments.checkpoint))
    if arguments.diagnose:
        given = arguments.config.protocols or ()
        config = replace(arguments.config, protocols=tuple(dict.fromkeys((*given, "diagnosis"))))
        arguments = replace(arguments, config=config)
    check_writable(_out(arguments), flag="out")
    check_writable(evaluation_folder(arguments.checkpoint))  # of features, to be used again
    try:
        with errors_in_one_line():
            device = distributed.init_from_environment(choose_device(arguments.device, flag="device"))
            subject = _load(arguments, device)
            splits = _list(arguments, subject)
            is_main = distributed.is_main()
            if is_main:
                _say_aloud(subject, splits)
            collected = _collect(arguments, subject, splits, device)
    finally:
        # The others need not wait for the arithmetic, which the main process does alone.
        distributed.shutdown()
    if is_main:
        _write(arguments, subject, collected)
    return 0


def evaluation_folder(checkpoint: Path) -> Path:
    """Return where results of a checkpoint go: in the folder of its run, or next to a checkpoint that lies alone.

    Those of an encoder that comes with the package, whose folder may be read-only, go to the current folder.
    """
    from fima.checkpoints.pretrained import shipped_name

    folder, name = checkpoint.parent, shipped_name(checkpoint)
    if name is not None:
        return Path(f"{name}-evaluation")
    return (folder.parent if folder.name == "checkpoints" else folder) / "evaluation"


def _out(arguments: EvaluateArguments) -> Path:
    return arguments.out or evaluation_folder(arguments.checkpoint) / f"{arguments.checkpoint.stem}.json"


def _load(arguments: EvaluateArguments, device: torch.device) -> Subject:
    from fima.evaluate.loaded_model import load_subject

    return load_subject(
        arguments.checkpoint,
        config=arguments.config,
        device=device,
        backbone=arguments.backbone,
        frames=arguments.frames,
        crop_size=arguments.crop_size,
    )


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
    arguments: EvaluateArguments, subject: Subject, splits: Mapping[SplitName, SplitLists], device: torch.device
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
            cache=evaluation_folder(arguments.checkpoint) / "cache",
            report=report,
        )


def _write(arguments: EvaluateArguments, subject: Subject, collected: Collected) -> None:
    from fima.checkpoints.pretrained import shipped_name

    out = _out(arguments)
    reports = out.with_suffix("")
    result = collected.result(reports)
    result.save(out)
    if arguments.json:
        print(out.read_text(encoding="utf-8"), end="")
        return
    name = shipped_name(arguments.checkpoint) or arguments.checkpoint
    Console().print(figures_table(result, f"{name} · {subject.loaded.description}"))
    if result.verdict:
        print(result.verdict)
    print(f"wrote {out}" + (f" and confusion matrices in {reports}" if reports.is_dir() else ""))
