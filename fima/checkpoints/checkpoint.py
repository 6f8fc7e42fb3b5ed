"""Checkpoints: written atomically, read without running code, refused by name when they do not fit."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeGuard, TypeVar, overload

import torch
from torch import Tensor, nn

from fima.backbones.registry import BACKBONES
from fima.checkpoints.torch_file import is_state_dict, read_content, refuse_odd_values, write_content
from fima.config import FinetuneConfig, PretrainConfig
from fima.data.layouts.video_list import counted
from fima.errors import CheckpointError, ConfigError
from fima.method.queue import VIDEO_IDS
from fima.recipe import config_from_mapping, config_to_mapping
from fima.version import __version__

FORMAT_VERSION = 3
"""Version 2 also held torch's random state, on which nothing depends: every step seeds it."""
ROUNDING = ("foreach", "fused")
"""Settings of PyTorch's optimisers that change rounding only: a resumed run keeps those that it was saved with."""
ENCODER_PREFIX = "query_encoder."
SCRATCH = "scratch"
"""Stands for random weights."""
MOTION_REGRESSION = "motion-regression"
"""The method of `fima make-encoder`, which trains the encoder that comes with the package."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Whole epochs done."""
    step: int = 0
    """Optimiser steps done since the start of the run."""
    step_in_epoch: int = 0
    """Steps done of the epoch after them; 0 between epochs."""
    videos_tried: int = 0
    """Videos that were asked for since the start of the run."""
    videos_skipped: int = 0
    """Those of them that could not be decoded."""
    averaged_steps: int = 0
    """Steps of the begun epoch that `sums` has; 0 between epochs."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sum of each loss and statistic over these steps, of a short one in part, for the epoch's line in the metrics."""
    last_loss: float | None = None
    collapsed_steps: int = 0
    """Steps in a row, up to the last one, that looked collapsed to this process."""
    rollbacks: int = 0
    """Times that the run went back to a healthy checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which epoch a fine-tuning run has chosen so far."""

    epoch: int | None = None
    """Whole epochs behind the best weights; None before the first test, and where the last epoch is the result."""
    top1: float | None = None
    """Top-1 that decided it, in percent."""
    tested_epoch: int = 0
    """Whole epochs behind the last test during training."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What every kind of run continues from, besides its settings."""

    FORMAT: ClassVar[str]
    """What files of this kind call themselves."""
    COMMAND: ClassVar[str]
    """The command that writes them."""
    REMEDY: ClassVar[str] = ""
    """What to do for somebody who gave another file."""
    CONFIG: ClassVar[type[Any]]

    progress: Progress
    model: dict[str, Tensor]
    """State of the networks: for a method both encoders, heads, decoder, queues."""
    optimizer: dict[str, Any]
    data: dict[str, Any]
    """What the run was trained on, as `VideoList.describe` gives it."""
    versions: dict[str, str]
    """Versions of fima, torch and Python that wrote it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(RunState):
    """Everything that a pre-training run continues from."""

    FORMAT: ClassVar[str] = "fima-pretrain"
    COMMAND: ClassVar[str] = "fima pretrain"
    CONFIG: ClassVar[type[Any]] = PretrainConfig

    config: PretrainConfig
    """Settings of the run, queue sizes resolved."""
    ema: dict[str, Tensor] = field(default_factory=dict)
    """State of the moving average of the encoder; empty where the run has none."""
    imported: dict[str, Any] = field(default_factory=dict)
    """What a converted checkpoint of the authors' program held besides, so that it can be written back."""


@dataclass(frozen=True, kw_only=True)
class ClassifierCheckpoint(RunState):
    """Everything that a fine-tuning run continues from."""

    FORMAT: ClassVar[str] = "fima-classifier"
    COMMAND: ClassVar[str] = "fima finetune"
    REMEDY: ClassVar[str] = (
        "; train one with `fima finetune CHECKPOINT LABELLED --out RUN`, or, instead of an exported file, give its run"
    )
    CONFIG: ClassVar[type[Any]] = FinetuneConfig

    config: FinetuneConfig
    """Settings of the run; the backbone and the number of classes are resolved."""
    classes: list[str]
    """Names of the classes, in the order of the logits."""
    source: dict[str, Any]
    """Which pre-trained file the run began from, its hash and what it held; `{"file": "scratch"}` for none."""
    selection: Selection


Run = TypeVar("Run", Checkpoint, ClassifierCheckpoint)
NESTED = {"progress": Progress, "selection": Selection}
"""Values that are dataclasses here and mappings in a file."""


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """The encoder of a file, in eval mode."""

    encoder: nn.Module
    """(B, 3, T, H, W) normalised RGB -> (B, C, t, h, w)."""
    config: PretrainConfig
    """Settings of the run that trained it; the defaults where the file does not say."""
    checkpoint_hash: str
    """First 16 hexadecimal digits of the file's SHA-256."""
    epoch: int | None
    """Whole epochs that it was trained for; None where the file does not say."""
    method: str
    """`fima`, `moco`, `supervised` (a file with a classifier), or `encoder` (bare weights)."""
    knows_settings: bool = True
    """Whether the file holds the settings; where it does not, frames and crop size are the paper's by assumption."""
    file: Path | None = None
    """Where it is from; None for random weights."""

    @property
    def source(self) -> dict[str, Any]:
        """What the record of a run that begins from it says of it."""
        if self.file is None:
            return {"file": SCRATCH}
        names = ("checkpoint_hash", "description", "method", "epoch")
        return {"file": str(self.file.resolve()), **{name: getattr(self, name) for name in names}}

    @property
    def description(self) -> str:
        """One line for a table or a figure."""
        return described(self.method, self.config.model.backbone, self.epoch, cost=self.config.method.cost)


def described(method: str, backbone: str | None, epoch: int | None, *, cost: str = "full") -> str:
    """Return what an encoder is, in one line for a table or a figure; `cost` is that of FIMA."""
    name = f"{method} {cost}" if method == "fima" and cost != "full" else method
    what = f"{backbone}, trained on rendered people" if method == MOTION_REGRESSION else f"{name} {backbone}"
    return what if epoch is None else f"{what}, {counted(epoch, 'epoch')}"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"fima": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def save_checkpoint(path: Path, checkpoint: RunState, *, backups: Sequence[Path] = ()) -> None:
    """Write a checkpoint so that `path` holds either the old file or the whole new one, even after a crash.

    The checkpoints before get the names of `backups`, the newest first. Raises CheckpointError.
    """
    content: dict[str, Any] = {"format": checkpoint.FORMAT, "format_version": FORMAT_VERSION, **vars(checkpoint)}
    content["config"] = config_to_mapping(content["config"])
    content |= {name: asdict(content[name]) for name in NESTED if name in content}
    write_content(path, content, backups=backups)


@overload
def load_checkpoint(path: Path) -> Checkpoint: ...


@overload
def load_checkpoint(path: Path, kind: type[Run]) -> Run: ...


def load_checkpoint(path: Path, kind: type[Any] = Checkpoint) -> Any:
    """Read a checkpoint onto the CPU, without running any code that it may hold. Raises CheckpointError."""
    # Not every PyTorch tells that such a file is weights alone.
    content = {} if path.suffix == ".safetensors" and path.is_file() else read_content(path)
    return parse_checkpoint(content, kind, source=path)


def parse_checkpoint(content: object, kind: type[Run], *, source: Path) -> Run:
    """Return the checkpoint of a kind that `read_content` found in a file. Raises CheckpointError where it is none."""
    if not is_of_kind(content, kind):
        official = isinstance(content, dict) and "state_dict" in content and kind is Checkpoint
        hint = "; one of the authors' program is converted by `fima convert`" if official else kind.REMEDY
        raise CheckpointError(f"{source}: not a checkpoint of `{kind.COMMAND}`{hint}")
    try:
        if content["format_version"] > FORMAT_VERSION:
            raise CheckpointError(f"{source}: written by a newer fima ({content['versions']['fima']}); update fima")
        if not is_state_dict(content["model"]):
            raise TypeError("its model has other values than tensors")
        values = {f.name: content[f.name] for f in fields(kind) if f.name in content or f.default_factory is MISSING}
        values |= {name: nested(**values[name]) for name, nested in NESTED.items() if name in values}
        values["config"] = config = config_from_mapping(values["config"], kind.CONFIG, source=str(source))
        checkpoint = kind(**values)
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{source}: not a complete checkpoint ({error})") from None
    try:
        if isinstance(config, PretrainConfig):
            BACKBONES.check(config.model.backbone, flag="model.backbone")
    except ConfigError as error:
        remedy = "install the package that it comes with, or register it first, with fima.register_backbone"
        raise CheckpointError(f"{source}: {error}; {remedy}") from None
    return checkpoint


def is_of_kind(content: object, kind: type[RunState]) -> TypeGuard[dict[str, Any]]:
    """Whether what `read_content` found in a file is a checkpoint of a kind."""
    return isinstance(content, dict) and content.get("format") == kind.FORMAT


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def file_hash(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def weights_hash(module: nn.Module, label: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a label and a module's weights, from whatever file."""
    digest = hashlib.sha256(label.encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, source: Path, what: str) -> None:
    """Load weights strictly: CheckpointError says which are not the module's by name and shape, or not finite."""
    check_weights(weights, module.state_dict(), source=source, what=what)
    refuse_odd_values(weights, source)
    module.load_state_dict(dict(weights))


def check_weights(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], *, source: Path, what: str) -> None:
    """Raise CheckpointError, which says which, where names and shapes are not those of a model's state dict, `own`."""
    wrong = [f"`{name}` is missing" for name in own if name not in weights]
    wrong += [f"`{name}` is not expected" for name in weights if name not in own]
    wrong += [
        f"`{name}` is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise CheckpointError(f"{source}: its weights are not of this {what}: {', '.join(wrong[:3])}{more}")


def restore(saved: RunState, module: nn.Module, optimizer: torch.optim.Optimizer, *, source: Path) -> None:
    """Put weights, queues and the optimiser's state back; its settings stay those that it was built with.

    Raises CheckpointError for another architecture, and for an optimiser with other groups of weights.
    """
    # Checkpoints of runs that did not leave out keys of the same video do not know the videos of their keys.
    unknown = {name: value for name, value in module.state_dict().items() if name.endswith(VIDEO_IDS)}
    load_weights(module, {**unknown, **saved.model}, source=source, what="model")
    own, before = optimizer.state_dict()["param_groups"], saved.optimizer["param_groups"]
    sizes, saved_sizes = ([len(group["params"]) for group in groups] for groups in (own, before))
    if sizes != saved_sizes:
        raise CheckpointError(
            f"{source}: its optimiser has groups of {saved_sizes} weights, not of {sizes}; give --optim.name, "
            "encoder-lr-scale and freeze-epochs as it had them, or start from its encoder alone with --model.init-from"
        )
    groups = [
        {**group, **{key: old[key] for key in ROUNDING if key in old}} for group, old in zip(own, before, strict=True)
    ]
    optimizer.load_state_dict({"state": saved.optimizer["state"], "param_groups": groups})
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim > 1 and value.shape == weight.shape:
                # Fused optimisers take both as they lie in memory, and the run may have another memory format.
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
