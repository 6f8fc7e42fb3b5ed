"""The flags of the authors' programs, and the setting of `fima` that each one stands for: one table."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NoReturn

from fima.errors import ConfigError

Program = Literal["train", "eval"]

SECTIONS = ("model", "method", "data", "optim", "run", "classifier", "test")
ATTACHED = re.compile(r"(-cs|-fpc|-sbc|-cpv)(\d+)")
DIRECTORY = "DIR"


@dataclass(frozen=True)
class Flag:
    """One flag of the authors' programs."""

    spelling: str
    """Its names as they are typed, with a blank between them."""
    train: str | None
    """What it stands for in `train.py`: a setting of `fima pretrain`, or something in words; None: no such flag."""
    eval: str | None
    """The same for `eval.py` and `fima finetune`."""
    kind: Callable[[str], Any] | Literal["switch"] = str
    """How its value is read; a switch has none."""
    _: KW_ONLY
    nargs: Literal["*", "?"] | None = None
    """How many values it takes, where that is not one."""
    choices: tuple[Any, ...] | None = None
    note: str = ""

    @property
    def names(self) -> list[str]:
        """The ways to type it."""
        return self.spelling.split()

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
    Flag("-a --arch", "model.backbone", "classifier.backbone", str.lower,
         choices=("i3d", "r2plus1d_18", "r3d_18", "tiny"), note="in any case of letters"),
    Flag("--dataset", "data.dataset", "data.dataset", str.lower,
         choices=("auto", "ucf101", "hmdb51", "k400", "diving48", "ssv2", "folder"),
         note="where DIR holds something else: what lies there, with a warning"),
    Flag("-j --workers", "data.workers", "data.workers", int, note="of a machine; its processes share them"),
    Flag("--epochs", "optim.epochs", "optim.epochs", int),
    Flag("--start_epoch", "`--start-epoch`", "nothing", int, note="a resumed run knows its epoch"),
    Flag("-b --batch_size", "optim.batch_size", "optim.batch_size", int, note="over all devices together"),
    Flag("-cs --crop_size", "data.crop_size", "data.crop_size", int),
    Flag("-fpc --frame_per_clip", "data.frames", "data.frames", int),
    Flag("-sbc --step_between_clips", "data.step_between_clips", "data.step_between_clips", int),
    Flag("--lr --learning_rate", "optim.lr", "optim.lr", float),
    Flag("--lr_decay --learning_rate_decay", "optim.decay", "optim.decay", float, note="of `--schedule`"),
    Flag("--schedule", "optim.milestones", "optim.milestones", int, nargs="*",
         note="with `optim.schedule` step; without it and `--cos`: constant in `train.py`, 60 120 in `eval.py`"),
    Flag("--cos", "`optim.schedule` cosine", "`optim.schedule` cosine", "switch", note="wins over `--schedule`"),
    Flag("--warmup", "optim.warmup_epochs", "optim.warmup_epochs", int),
    Flag("--wp_lr --warmup_learning_rate", "optim.warmup_lr", "optim.warmup_lr", float),
    Flag("--momentum", "optim.momentum", "optim.momentum", float),
    Flag("--wd --weight_decay", "optim.weight_decay", "optim.weight_decay", float),
    Flag("-p --print_freq", "run.log_steps", "run.log_steps", int),
    Flag("--log_dir", "`--out`", "`--out`", note="default: a folder under `runs/official`, which is printed"),
    Flag("--ckp_dir", "`--checkpoints`", "`--checkpoints`", note="default: `checkpoints` in `--log_dir`"),
    Flag("--resume", "`--resume` or `--resume-from`", "`--resume`", nargs="?",
         note="the run's own `last.pt`, also meant without a path: `--resume`; any other checkpoint: `--resume-from`"),
    Flag("--seed", "run.seed", "run.seed", int),
    Flag("--gpu", "`run.device` cuda:N", "`run.device` cuda:N", int,
         note="not with `--multiprocessing_distributed`, which takes all GPUs"),
    Flag("--multiprocessing_distributed", "`torchrun`", "`torchrun`", "switch",
         note="one process per GPU, or one on the CPU"),
    Flag("--world_size", "`torchrun --nnodes`", "`torchrun --nnodes`", int,
         note="without `--multiprocessing_distributed`: the number of processes"),
    Flag("--rank", "`torchrun --node-rank`", "`torchrun --node-rank`", int,
         note="without `--multiprocessing_distributed`: of this process"),
    Flag("--dist_url", "`torchrun --master-addr --master-port`", "`torchrun --master-addr --master-port`",
         note="tcp://HOST:PORT, or env://"),
    Flag("--dist_backend", "nothing", "nothing", note="nccl on GPUs, gloo on CPUs"),
    Flag("--moco_dim", "model.embedding_dim", None, int),
    Flag("--moco_k", "method.queue_size", None, int,
         note="ignored by the authors' program; without it ucf101: 2240 and no `method.cell_queue_size`, "
              "k400: 65536 and 31360, else by the number of videos"),
    Flag("--moco_m", "method.key_momentum", None, float),
    Flag("--moco_t", "method.temperature", None, float),
    Flag("--mlp", "nothing", None, "switch", note="the projector always is an MLP"),
    Flag("--beta", "nothing", None, float, note="without effect in the authors' program"),
    Flag("--dense_temperature", "method.cell_temperature", None, float),
    Flag("--pos_ratio", "method.pos_ratio", None, float),
    Flag("--clip_per_video", "`data.clip_sampling`", None, int, choices=(1, 2, 3), note="1 same, 2 random, 3 near"),
    Flag("--dense_loss_weight", "method.cell_weight", None, float),
    Flag("--num_class", None, "classifier.num_classes", int,
         note="101: ucf101, 51: hmdb51, where `--dataset` is not given"),
    Flag("-cpv --clip_per_video", None, "test.clips", int),
    Flag("--dropout", None, "classifier.dropout", float,
         note="default: 0.5 for HMDB51, else 0.7; ignored by the authors' program"),
    Flag("-e --evaluate", None, "`fima evaluate --protocols evaluate`", "switch",
         note="of the checkpoint that `--resume` names"),
    Flag("--pretrained", None, "the checkpoint to start from", note="without it: `scratch`"),
    Flag("--finetune", None, "the default", "switch", note="all weights are trained"),
    Flag("--freeze", None, "`classifier.freeze`", "switch", note="linear probing; wins over `--finetune`"),
    Flag("--ori_resolution", None, "test.ori_resolution", int),
)
# fmt: on
"""In the order of the help."""


def flags_of(program: Program) -> list[Flag]:
    """Return the flags that a program has."""
    return [flag for flag in FLAGS if flag.meaning(program) is not None]


def parse_flags(program: Program, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line of the authors' programs: the folder as `dir`, and every flag by its `Flag.dest`.

    A flag that is not given is None; `--resume` without a path is an empty text. Raises ConfigError for a wrong one,
    and SystemExit after `--help`.
    """
    parser = _Parser(
        takes_folder=any(word.startswith("--resume") for word in words),
        prog=f"{program}.py",
        description="The authors' command line. It is translated into the `fima` command that it prints, and run.",
    )
    parser.add_argument("dir", metavar=DIRECTORY, help="folder of the data set")
    for flag in flags_of(program):
        text = f"→ {flag.meaning(program)}{'; ' * bool(flag.note)}{flag.note}".replace("%", "%%")
        options: dict[str, Any] = {"type": flag.kind, "nargs": flag.nargs, "choices": flag.choices}
        if flag.kind == "switch":
            options = {"action": "store_const", "const": True}
        elif flag.nargs == "?":
            options["const"] = ""
        parser.add_argument(*flag.names, dest=flag.dest, help=text, **options)
    return parser.parse_args([part for word in words for part in _split_attached(word)])


def _split_attached(word: str) -> list[str]:
    """Take `-cs224` apart, as argparse does with the short flags of one letter only."""
    match = ATTACHED.fullmatch(word)
    return [word] if match is None else [match[1], match[2]]


class _Parser(argparse.ArgumentParser):
    """Raises an error of ours where argparse prints the usage and leaves.

    `takes_folder`: whether a flag with an optional value is given, which a folder right after it is taken for.
    """

    def __init__(self, *, takes_folder: bool, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.takes_folder = takes_folder

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of argparse's exit."""
        swallowed = self.takes_folder and DIRECTORY in message
        hint = "; what stands right after --resume is taken for its checkpoint" if swallowed else ""
        raise ConfigError(f"{message}{hint}; `python3 {self.prog} --help` lists the flags")
