"""Checkpoints: written atomically, read without running code, refused by name when they do not fit."""

import hashlib
import pickle
import platform
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fima.backbones.registry import check_backbone
from fima.checkpoints.foreign import refuse_other_kinds
from fima.config import PretrainConfig
from fima.data.layouts.video_list import counted
from fima.errors import CheckpointError, ConfigError
from fima.files.atomic import replace_file
from fima.recipe import config_from_mapping, config_to_mapping
from fima.version import __version__

FORMAT = "fima-pretrain"
FORMAT_VERSION = 2
CLASSIFIER_FORMAT = "fima-classifier"
OWN_FORMATS = (FORMAT, CLASSIFIER_FORMAT)
ENCODER_PREFIX = "query_encoder."


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
    """Sum of each loss and statistic over these steps, for the epoch's line in the metrics."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What every kind of run continues from, beside its settings."""

    progress: Progress
    """How far the run had come."""
    model: dict[str, Tensor]
    """State of the networks: for a method both encoders, heads, decoder, queues."""
    optimizer: dict[str, Any]
    """State of the optimiser."""
    rng: dict[str, Any]
    """Torch's random state: `cpu`, and `cuda` with one tensor per device."""
    data: dict[str, Any]
    """What the run was trained on, as `VideoList.describe` gives it."""
    versions: dict[str, str]
    """Versions of fima, torch and Python that wrote it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(RunState):
    """Everything that a pre-training run continues from."""

    config: PretrainConfig
    """Settings of the run, queue sizes resolved."""
    imported: dict[str, Any] = field(default_factory=dict)
    """What a converted checkpoint of the authors' program held besides, so that it can be written back."""


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

    @property
    def description(self) -> str:
        """One line for a table or a figure."""
        epochs = "" if self.epoch is None else f", {counted(self.epoch, 'epoch')}"
        return f"{self.method} {self.config.model.backbone}{epochs}"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"fima": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, backups: Sequence[Path] = ()) -> None:
    """Write a checkpoint so that `path` holds either the old file or the whole new one, even after a crash.

    Args:
        path: the file.
        checkpoint: what it will hold.
        backups: names for the checkpoints before, the newest first.

    Raises:
        CheckpointError: it cannot be written; the files are as they were.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": config_to_mapping(checkpoint.config),
        "progress": asdict(checkpoint.progress),
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "rng": checkpoint.rng,
        "data": checkpoint.data,
        "versions": checkpoint.versions,
    }
    if checkpoint.imported:
        content["imported"] = checkpoint.imported
    write_content(path, content, backups=backups)


def write_content(path: Path, content: Mapping[str, Any], *, backups: Sequence[Path] = ()) -> None:
    """Write values and tensors so that `path` holds either the old file or the whole new one, even after a crash.

    PyTorch's format has a CRC-32 of every tensor, which `read_content` compares.

    Raises:
        CheckpointError: it cannot be written; the files are as they were.
    """
    try:
        replace_file(path, lambda file: torch.save(dict(content), file), backups=backups)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, without running any code that it may hold.

    Raises:
        CheckpointError: the file is missing, damaged, of another program, or of a newer version of this one.
    """
    return parse_checkpoint(read_content(path), source=path)


def parse_checkpoint(content: object, *, source: Path) -> Checkpoint:
    """Return the checkpoint that a file's content is.

    Args:
        content: what `read_content` returned.
        source: the file, for the messages.

    Raises:
        CheckpointError: it is of another program, incomplete, or of a newer version of this one.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        official = isinstance(content, dict) and "state_dict" in content
        hint = "; one of the authors' program is converted by `fima convert`" if official else ""
        raise CheckpointError(f"{source}: a PyTorch file, but not a checkpoint of `fima pretrain`{hint}")
    if content["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"{source}: written by a newer fima ({content['versions']['fima']}); update fima")
    try:
        config = config_from_mapping(content["config"], PretrainConfig, source=str(source))
        check_backbone(config.model.backbone, flag="model.backbone")
        return Checkpoint(
            config=config,
            progress=Progress(**content["progress"]),
            imported=content.get("imported", {}),
            **{key: content[key] for key in ("model", "optimizer", "rng", "data", "versions")},
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{source}: not a complete checkpoint ({error})") from None


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def file_hash(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, source: Path, what: str) -> None:
    """Load weights strictly.

    Raises:
        CheckpointError: names and shapes are not those of `module`; says which.
    """
    check_weights(weights, module.state_dict(), source=source, what=what)
    module.load_state_dict(dict(weights))


def check_weights(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], *, source: Path, what: str) -> None:
    """Refuse weights whose names and shapes are not those of a model's state dict, `own`.

    Raises:
        CheckpointError: says which.
    """
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
    """Put weights, queues, optimiser and random state back.

    Raises:
        CheckpointError: the checkpoint is of another architecture.
    """
    load_weights(module, saved.model, source=source, what="model")
    optimizer.load_state_dict(saved.optimizer)
    torch.set_rng_state(saved.rng["cpu"])
    if saved.rng["cuda"] and len(saved.rng["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved.rng["cuda"])


class HoldsClassesError(CheckpointError):
    """A file with objects of other programs' classes, or no checkpoint at all."""


def read_content(path: Path) -> Any:  # noqa: ANN401
    """Read what a PyTorch file holds onto the CPU, without running any code that it may hold.

    The checksums of this program's own files are compared; those of others may have been written without any.

    Raises:
        CheckpointError: the file is missing, damaged, altered, or holds more than plain values and tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not' if path.is_dir() else 'no such'} checkpoint file")
    refuse_other_kinds(path)
    with path.open("rb") as file:
        starts_as_zip = file.read(2) == b"PK"
    if starts_as_zip and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: truncated (copied or downloaded in part?); copy it again or use another one")
    try:
        with warnings.catch_warnings():
            # Files of other programs make torch warn about their pickle protocol before it refuses them.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
        altered = altered_part(path) if isinstance(content, dict) and content.get("format") in OWN_FORMATS else None
        if altered is None:
            return content
        reason = f"altered since it was written: the checksum of {altered} is wrong"
    except pickle.UnpicklingError:
        reason = "holds more than plain tensors and values, so it is not loaded" if starts_as_zip else "no checkpoint"
        raise HoldsClassesError(f"{path}: {reason}") from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        reason = (
            f"damaged or no checkpoint ({str(error).splitlines()[0]})" if str(error) else "damaged or no checkpoint"
        )
    raise CheckpointError(f"{path}: {reason}")


def altered_part(path: Path) -> str | None:
    """Return the part of a PyTorch file whose content does not fit its checksum, or None."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()
