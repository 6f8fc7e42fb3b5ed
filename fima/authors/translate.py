"""From a parsed command line of the authors' programs to the words of a `fima` command."""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fima.authors.flags import Program, flags_of
from fima.checkpoints.run_folder import RunFolder
from fima.config import FinetuneConfig, PretrainConfig
from fima.config.checks import as_words
from fima.data.datasets import LAYOUTS, list_videos, recognise
from fima.errors import CheckpointError, ConfigError
from fima.recipe import config_from_mapping

CLIP_SAMPLING = {1: "same", 2: "random", 3: "near"}
QUEUES = {"ucf101": (2_240, 0), "k400": (65_536, 31_360)}
"""Keys and cells of the published runs."""
DATASET_OF_CLASSES = {101: "ucf101", 51: "hmdb51"}
HMDB51_DROPOUT = 0.5
DEFAULT_FOLDER = Path("runs/official")
EVALUATION = {
    "arch": "--backbone",
    "frame_per_clip": "--frames",
    "crop_size": "--crop-size",
    "clip_per_video": "--num-clips",
    "ori_resolution": "--ori-resolution",
    "batch_size": "--batch-size",
    "workers": "--workers",
}
"""Flags of `eval.py -e` by their names in the parsed arguments, and those of `fima evaluate`."""
USED_BY_EVALUATION = (
    "dataset", "num_class", "gpu", "log_dir", "resume", "evaluate", "pretrained", "finetune", "freeze",
    "multiprocessing_distributed", "world_size", "rank", "dist_url",
)  # fmt: skip
"""Further ones that `-e` needs or that the training of the same classifier was called with."""
OPTIONS = {
    "--out": "--log_dir",
    "--checkpoints": "--ckp_dir",
    "--resume_from": "--resume",
    "--start_epoch": "--start_epoch",
    "--run.device": "--gpu",
    "--device": "--gpu",
    **{flag.replace("-", "_").replace("__", "--"): f"--{dest}" for dest, flag in EVALUATION.items()},
}
"""Flags of `fima` that are no settings, or not as they are, and what the authors call them."""


@dataclass(kw_only=True)
class Translation:
    """A `fima` command, as it is put together."""

    command: str
    positionals: list[str]
    """Words after the command."""
    options: dict[str, str | None] = field(default_factory=dict)
    """Flags that are no settings, with their value; None for a switch."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings by name, `optim.lr` -> 0.01."""
    remarks: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """The command line after `fima`."""
        words = [self.command, *self.positionals]
        for flag, value in self.options.items():
            words += [flag] if value is None else [flag, value]
        return words + as_words(self.settings)

    @property
    def config(self) -> PretrainConfig | FinetuneConfig:
        """The settings over the defaults of the command. Raises ConfigError where one is out of range."""
        nested: dict[str, dict[str, Any]] = {}
        for name, value in self.settings.items():
            section, key = name.split(".")
            nested.setdefault(section, {})[key] = value
        if self.command == "pretrain":
            return config_from_mapping(nested, PretrainConfig, source="train.py")
        return config_from_mapping(nested, FinetuneConfig, source="eval.py")


def translate(program: Program, given: argparse.Namespace, *, processes: int = 1) -> Translation:
    """Return the `fima` command of parsed flags; `processes` share its workers, rounded up. Raises UserError."""
    if program == "eval" and given.evaluate:
        return _evaluation(given, processes)
    translation = Translation(command="pretrain" if program == "train" else "finetune", positionals=[given.dir])
    for flag in flags_of(program):
        value, setting = getattr(given, flag.dest), flag.setting(program)
        if value is not None and setting is not None:
            translation.settings[setting] = value
    settings, remarks = translation.settings, translation.remarks
    named = given.dataset or (DATASET_OF_CLASSES.get(given.num_class, "auto") if program == "eval" else "auto")
    dataset = settings["data.dataset"] = dataset_in(Path(given.dir), named, remarks)
    if given.workers is not None:
        settings["data.workers"] = -(-given.workers // processes)
    _schedule(program, given, translation)
    if (device := _device(given, remarks)) is not None:
        settings["run.device"] = device
    if program == "eval":
        _finetuning(given, dataset, translation)
    else:
        if dataset in QUEUES:
            keys, cells = QUEUES[dataset]
            settings.setdefault("method.queue_size", keys)
            settings["method.cell_queue_size"] = cells
        if given.clip_per_video is not None:
            settings["data.clip_sampling"] = CLIP_SAMPLING[given.clip_per_video]
    remarks += [
        f"{flag.shown} has no effect: {flag.note}"
        for flag in flags_of(program)
        if flag.meaning(program) == "nothing" and getattr(given, flag.dest) is not None
    ]
    _places(program, given, dataset, translation)
    if program == "eval" and "--resume" not in translation.options:
        # The authors' program has these sizes whatever the checkpoint was trained on.
        published = PretrainConfig().data
        settings.setdefault("data.frames", published.frames)
        settings.setdefault("data.crop_size", published.crop_size)
    # Refused here, before anything is shown or started, where a value is out of range.
    _ = translation.config
    return translation


def dataset_in(root: Path, named: str, remarks: list[str]) -> str:
    """Return the data set to read a folder as: the named one, unless it is another. Raises DataError without it."""
    held = recognise(root)
    accepted = any(layout.name == named and layout.may_be(root, None) for layout in LAYOUTS)
    if named in ("auto", held) or accepted:
        return held if named == "auto" else named
    remarks.append(f"{root} IS NOT {named.upper()}: it is read as what it looks like, `{held}`")
    return held


def reworded(program: Program, message: str) -> str:
    """Return a message of `fima` with the authors' names of the flags in it."""
    names = {f"--{flag.setting(program)}": flag.shown for flag in flags_of(program) if flag.setting(program)}
    names.update(OPTIONS)

    def replace(match: re.Match[str]) -> str:
        return names.get(match[0].replace("-", "_").replace("__", "--", 1), match[0])

    return re.sub(r"--[a-z][a-z0-9_.-]*[a-z0-9]", replace, message)


def _device(given: argparse.Namespace, remarks: list[str]) -> str | None:
    """Return the one device that is asked for, if any."""
    if given.gpu is not None and given.multiprocessing_distributed:
        remarks.append("--gpu has no effect with --multiprocessing_distributed, which takes all GPUs")
        return None
    return None if given.gpu is None else f"cuda:{given.gpu}"


def _schedule(program: Program, given: argparse.Namespace, translation: Translation) -> None:
    settings, remarks = translation.settings, translation.remarks
    milestones = settings.pop("optim.milestones", None)
    if given.cos:
        settings["optim.schedule"] = "cosine"
        if program == "eval":
            settings["optim.milestones"] = []
        if milestones:
            remarks.append("--cos and --schedule are given: --cos wins")
    elif milestones:
        settings |= {"optim.schedule": "step", "optim.milestones": milestones}
    elif program == "train":
        settings["optim.schedule"] = "constant"
        remarks.append("neither --cos nor --schedule is given: the learning rate stays constant")
    else:
        remarks.append("neither --cos nor --schedule is given: the learning rate falls at epochs 60 and 120")
    falls_in_steps = milestones or program == "eval"
    if given.learning_rate_decay is not None and (given.cos or not falls_in_steps):
        remarks.append("--lr_decay has no effect without the steps of --schedule")
    if given.warmup_learning_rate is not None and not given.warmup:
        remarks.append("--wp_lr has no effect without the epochs of --warmup")


def _finetuning(given: argparse.Namespace, dataset: str, translation: Translation) -> None:
    settings, remarks = translation.settings, translation.remarks
    if given.pretrained:
        translation.positionals.insert(0, _existing("--pretrained", given.pretrained))
    else:
        translation.positionals.insert(0, "scratch")
        settings.setdefault("classifier.backbone", "i3d")
        remarks.append("no --pretrained: the encoder starts from random weights")
    if given.num_class is not None:
        there = len(list_videos(Path(given.dir), "train", dataset=dataset).classes)  # type: ignore[arg-type]
        if there and there != given.num_class:
            del settings["classifier.num_classes"]
            what = f"{given.dir} has {there} classes; the classifier gets {there}"
            remarks.append(f"--num_class {given.num_class}: {what}")
    if given.freeze:
        settings["classifier.freeze"] = True
        if settings.pop("classifier.dropout", None) is not None:
            remarks.append("--dropout has no effect with --freeze: a linear probe has none")
        if given.finetune:
            remarks.append("--freeze and --finetune are given: --freeze wins, only the linear layer is trained")
    else:
        if dataset == "hmdb51" or given.num_class == 51:
            settings.setdefault("classifier.dropout", HMDB51_DROPOUT)
        if not given.finetune:
            remarks.append("neither --finetune nor --freeze is given: all weights are trained, as with --finetune")


def _places(program: Program, given: argparse.Namespace, dataset: str, translation: Translation) -> None:
    """Where the run and its checkpoints go, and what it continues from."""
    options, resume = translation.options, given.resume
    log_dir = given.log_dir
    if not log_dir and resume and not given.ckp_dir and (Path(resume).parent.parent / "config.yaml").is_file():
        log_dir = str(Path(resume).parent.parent)
    if not log_dir:
        backbone = given.arch or "i3d"
        kind = "pretrain" if program == "train" else "linear" if given.freeze else "finetune"
        log_dir = str(DEFAULT_FOLDER / f"{kind}-{dataset}-{backbone}")
        translation.remarks.append(f"no --log_dir: the run goes to {log_dir}")
    options["--out"] = log_dir
    if given.ckp_dir:
        options["--checkpoints"] = given.ckp_dir
    last = RunFolder(Path(log_dir), Path(given.ckp_dir) if given.ckp_dir else None).last
    if resume is not None and (not resume or Path(resume).resolve() == last.resolve()):
        options["--resume"] = None
    elif resume and program == "train":
        options["--resume-from"] = _existing("--resume", resume)
    elif resume:
        _existing("--resume", resume)
        raise ConfigError(
            f"--resume {resume}: is not the last checkpoint of the run in --log_dir {log_dir}, which is {last}; "
            "to begin from its encoder give it as --pretrained, to measure it add -e"
        )
    if program == "train" and given.start_epoch and "--resume" in options:
        translation.remarks.append("--start_epoch has no effect: a resumed run knows its epoch")
    elif program == "train" and given.start_epoch:
        options["--start-epoch"] = str(given.start_epoch)


def _evaluation(given: argparse.Namespace, processes: int) -> Translation:
    """Return the command of `-e`: the classifier of a checkpoint, tested."""
    if not given.resume:
        raise ConfigError("-e/--evaluate tests a trained classifier: name its checkpoint with --resume")
    translation = Translation(command="evaluate", positionals=[_existing("--resume", given.resume), given.dir])
    named = given.dataset or DATASET_OF_CLASSES.get(given.num_class, "auto")
    options, remarks = translation.options, translation.remarks
    options |= {"--protocols": "evaluate", "--dataset": dataset_in(Path(given.dir), named, remarks)}
    for dest, flag in EVALUATION.items():
        value = getattr(given, dest)
        if value is not None:
            options[flag] = str(-(-value // processes) if dest == "workers" else value)
    if (device := _device(given, remarks)) is not None:
        options["--device"] = device
    if given.log_dir:
        options["--out"] = str(Path(given.log_dir) / "evaluate.json")
    used = {*EVALUATION, *USED_BY_EVALUATION}
    idle = [flag.shown for flag in flags_of("eval") if flag.dest not in used and getattr(given, flag.dest) is not None]
    if idle:
        remarks.append(f"with -e these have no effect: {', '.join(idle)}")
    return translation


def _existing(flag: str, path: str) -> str:
    if not Path(path).is_file():
        what = "is a folder, not a checkpoint" if Path(path).is_dir() else "no such file"
        raise CheckpointError(f"{flag} {path}: {what}; check the path")
    return path
