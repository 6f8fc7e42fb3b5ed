"""The flags of the authors' programs, and the setting of `fima` that each one stands for: one table."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from fima.errors import ConfigError

Program = Literal["train", "eval"]

SECTIONS = ("model", "method", "data", "optim", "run", "classifier", "test")
ATTACHED = re.compile(r"(-cs|-fpc|-sbc|-cpv)(\d+)")
DIRECTORY = "DIR"


def _lower(word: str) -> str:
    return word.lower()


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of the authors' programs."""

    names: tuple[str, ...]
    """As they are typed."""
    train: str | None
    """What it stands for in `train.py`: a setting of `fima pretrain`, or something in words; None: no such flag."""
    eval: str | None
    """The same for `eval.py` and `fima finetune`."""
    kind: Callable[[str], Any] | Literal["switch"] = str
    """How its value is read; a switch has none."""
    nargs: Literal["*", "?"] | None = None
    """How many values it takes, where that is not one."""
    choices: tuple[Any, ...] | None = None
    """The values that it takes."""
    note: str = ""
    """What else there is to know."""

    @property
    def dest(self) -> str:
        """Its name in the parsed arguments."""
        return next(name for name in reversed(self.names) if name.startswith("--")).lstrip("-")

    @property
    def shown(self) -> str:
        """Its name in messages: the first long one."""
        return next(name for name in self.names if name.startswith("--"))

    def meaning(self, program: Program) -> str | None:
        """Return what it stands for in a program."""
        return self.train if program == "train" else self.eval

    def setting(self, program: Program) -> str | None:
        """Return the setting that takes its value as it is; None where it has another meaning."""
        meaning = self.meaning(program) or ""
        return meaning if meaning.split(".")[0] in SECTIONS and " " not in meaning else None


# fmt: off
FLAGS = (
    Flag(names=("-a", "--arch"), train="model.backbone", eval="classifier.backbone", kind=_lower,
         choices=("i3d", "r2plus1d_18", "r3d_18", "tiny"), note="in any case of letters"),
    Flag(names=("--dataset",), train="data.dataset", eval="data.dataset", kind=_lower,
         choices=("auto", "ucf101", "hmdb51", "k400", "diving48", "ssv2", "folder"),
         note="where DIR holds something else: what lies there, with a warning"),
    Flag(names=("-j", "--workers"), train="data.workers", eval="data.workers", kind=int,
         note="of a machine; its processes share them"),
    Flag(names=("--epochs",), train="optim.epochs", eval="optim.epochs", kind=int),
    Flag(names=("--start_epoch",), train="`--start-epoch`", eval="nothing", kind=int,
         note="`eval.py`: a resumed run knows its epoch"),
    Flag(names=("-b", "--batch_size"), train="optim.batch_size", eval="optim.batch_size", kind=int,
         note="over all devices together"),
    Flag(names=("-cs", "--crop_size"), train="data.crop_size", eval="data.crop_size", kind=int),
    Flag(names=("-fpc", "--frame_per_clip"), train="data.frames", eval="data.frames", kind=int),
    Flag(names=("-sbc", "--step_between_clips"), train="data.step_between_clips", eval="data.step_between_clips",
         kind=int),
    Flag(names=("--lr", "--learning_rate"), train="optim.lr", eval="optim.lr", kind=float),
    Flag(names=("--lr_decay", "--learning_rate_decay"), train="optim.decay", eval="optim.decay", kind=float,
         note="of `--schedule`"),
    Flag(names=("--schedule",), train="optim.milestones", eval="optim.milestones", kind=int, nargs="*",
         note="with `optim.schedule` step; without it and `--cos`: constant in `train.py`, 60 120 in `eval.py`"),
    Flag(names=("--cos",), train="`optim.schedule` cosine", eval="`optim.schedule` cosine", kind="switch",
         note="wins over `--schedule`"),
    Flag(names=("--warmup",), train="optim.warmup_epochs", eval="optim.warmup_epochs", kind=int),
    Flag(names=("--wp_lr", "--warmup_learning_rate"), train="optim.warmup_lr", eval="optim.warmup_lr", kind=float),
    Flag(names=("--momentum",), train="optim.momentum", eval="optim.momentum", kind=float),
    Flag(names=("--wd", "--weight_decay"), train="optim.weight_decay", eval="optim.weight_decay", kind=float),
    Flag(names=("-p", "--print_freq"), train="run.log_steps", eval="run.log_steps", kind=int),
    Flag(names=("--log_dir",), train="`--out`", eval="`--out`",
         note="default: a folder under `runs/official`, which is printed"),
    Flag(names=("--ckp_dir",), train="`--checkpoints`", eval="`--checkpoints`",
         note="default: `checkpoints` in `--log_dir`"),
    Flag(names=("--resume",), train="`--resume` or `--resume-from`", eval="`--resume`", nargs="?",
         note="the run's own `last.pt`, also meant without a path: `--resume`; any other checkpoint: `--resume-from`"),
    Flag(names=("--seed",), train="run.seed", eval="run.seed", kind=int),
    Flag(names=("--gpu",), train="`run.device` cuda:N", eval="`run.device` cuda:N", kind=int,
         note="not with `--multiprocessing_distributed`, which takes all GPUs"),
    Flag(names=("--multiprocessing_distributed",), train="`torchrun`", eval="`torchrun`", kind="switch",
         note="one process per GPU, or one on the CPU"),
    Flag(names=("--world_size",), train="`torchrun --nnodes`", eval="`torchrun --nnodes`", kind=int,
         note="without `--multiprocessing_distributed`: the number of processes"),
    Flag(names=("--rank",), train="`torchrun --node-rank`", eval="`torchrun --node-rank`", kind=int,
         note="without `--multiprocessing_distributed`: of this process"),
    Flag(names=("--dist_url",), train="`torchrun --master-addr --master-port`",
         eval="`torchrun --master-addr --master-port`", note="tcp://HOST:PORT, or env://"),
    Flag(names=("--dist_backend",), train="nothing", eval="nothing",
         note="nccl on GPUs, gloo on CPUs"),
    Flag(names=("--moco_dim",), train="model.embedding_dim", eval=None, kind=int),
    Flag(names=("--moco_k",), train="method.queue_size", eval=None, kind=int,
         note="ignored by the authors' program; without it ucf101: 2240 and no `method.cell_queue_size`, "
         "k400: 65536 and 31360, else by the number of videos"),
    Flag(names=("--moco_m",), train="method.key_momentum", eval=None, kind=float),
    Flag(names=("--moco_t",), train="method.temperature", eval=None, kind=float),
    Flag(names=("--mlp",), train="nothing", eval=None, kind="switch", note="the projector always is an MLP"),
    Flag(names=("--beta",), train="nothing", eval=None, kind=float, note="without effect in the authors' program"),
    Flag(names=("--dense_temperature",), train="method.cell_temperature", eval=None, kind=float),
    Flag(names=("--pos_ratio",), train="method.pos_ratio", eval=None, kind=float),
    Flag(names=("--clip_per_video",), train="`data.clip_sampling`", eval=None, kind=int, choices=(1, 2, 3),
         note="1 same, 2 random, 3 near"),
    Flag(names=("--dense_loss_weight",), train="method.cell_weight", eval=None, kind=float),
    Flag(names=("--num_class",), train=None, eval="classifier.num_classes", kind=int,
         note="101: ucf101, 51: hmdb51, where `--dataset` is not given"),
    Flag(names=("-cpv", "--clip_per_video"), train=None, eval="test.clips", kind=int),
    Flag(names=("--dropout",), train=None, eval="classifier.dropout", kind=float,
         note="default: 0.5 for HMDB51, else 0.7; ignored by the authors' program"),
    Flag(names=("-e", "--evaluate"), train=None, eval="`fima evaluate --protocols evaluate`", kind="switch",
         note="of the checkpoint that `--resume` names"),
    Flag(names=("--pretrained",), train=None, eval="the checkpoint to begin from", note="without it: `scratch`"),
    Flag(names=("--finetune",), train=None, eval="the default", kind="switch", note="all weights are trained"),
    Flag(names=("--freeze",), train=None, eval="`classifier.freeze`", kind="switch",
         note="linear probing; wins over `--finetune`"),
    Flag(names=("--ori_resolution",), train=None, eval="test.ori_resolution", kind=int),
)
# fmt: on
"""In the order of the help."""


def flags_of(program: Program) -> list[Flag]:
    """Return the flags that a program has."""
    return [flag for flag in FLAGS if flag.meaning(program) is not None]


def parse_flags(program: Program, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line of the authors' programs.

    Returns:
        The folder as `dir`, and every flag by its `Flag.dest`; None where it is not given, and an empty text for
        `--resume` without a path.

    Raises:
        ConfigError: a flag or a value that there is not.
        SystemExit: after `--help`.
    """
    parser = _Parser(
        takes_folder=any(word.startswith("--resume") for word in words),
        prog=f"{program}.py",
        description="The authors' command line. It is translated into the `fima` command that it prints, and run.",
    )
    parser.add_argument("dir", metavar=DIRECTORY, help="folder of the data set")
    for flag in flags_of(program):
        text = f"→ {flag.meaning(program)}{'; ' * bool(flag.note)}{flag.note}".replace("%", "%%")
        if flag.kind == "switch":
            parser.add_argument(*flag.names, dest=flag.dest, action="store_const", const=True, help=text)
        else:
            parser.add_argument(
                *flag.names,
                dest=flag.dest,
                type=flag.kind,
                nargs=flag.nargs,
                const="" if flag.nargs == "?" else None,
                choices=flag.choices,
                help=text,
            )
    return parser.parse_args([part for word in words for part in _split_attached(word)])


def markdown_table() -> str:
    """Return the table of `docs/official.md`."""
    rows = ["| official flag | `train.py` | `eval.py` | |", "|---|---|---|---|"]
    for flag in FLAGS:
        names = ", ".join(f"`{name}`" for name in flag.names)
        cells = [_cell(flag, "train"), _cell(flag, "eval")]
        rows.append(f"| {names} | {' | '.join(cells)} | {flag.note} |")
    return "\n".join(rows)


def _cell(flag: Flag, program: Program) -> str:
    meaning = flag.meaning(program) or ""
    return f"`{meaning}`" if flag.setting(program) else meaning


def _split_attached(word: str) -> list[str]:
    """Take `-cs224` apart, as argparse does with the short flags of one letter only."""
    match = ATTACHED.fullmatch(word)
    return [word] if match is None else [match[1], match[2]]


class _Parser(argparse.ArgumentParser):
    """Raises an error of ours where argparse prints the usage and leaves.

    Args:
        takes_folder: whether a flag with an optional value is given, which a folder right after it is taken for.
        options: those of argparse.
    """

    def __init__(self, *, takes_folder: bool, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.takes_folder = takes_folder

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of argparse's exit."""
        swallowed = self.takes_folder and DIRECTORY in message
        hint = "; what stands right after --resume is taken for its checkpoint" if swallowed else ""
        raise ConfigError(f"{message}{hint}; `python3 {self.prog} --help` lists the flags")
