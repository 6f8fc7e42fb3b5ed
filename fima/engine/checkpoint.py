"""Checkpoints: written atomically, read without running code, refused by name when they do not fit."""

import hashlib
import os
import pickle
import platform
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fima
from fima.config import PretrainConfig
from fima.errors import CheckpointError, ConfigError
from fima.model.backbones import build_backbone
from fima.recipe import config_from_mapping, config_to_mapping

FORMAT = "fima-pretrain"
FORMAT_VERSION = 1
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


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run continues from."""

    config: PretrainConfig
    """Settings of the run, queue sizes resolved."""
    progress: Progress
    """How far the run had come."""
    model: dict[str, Tensor]
    """State of the method: both encoders, heads, decoder, queues."""
    optimizer: dict[str, Any]
    """State of the optimiser."""
    rng: dict[str, Any]
    """Torch's random state: `cpu`, and `cuda` with one tensor per device."""
    data: dict[str, Any]
    """What the run was trained on, as `VideoList.describe` gives it."""
    versions: dict[str, str]
    """Versions of fima, torch and Python that wrote it."""


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """The query encoder of a checkpoint, in eval mode."""

    encoder: nn.Module
    """(B, 3, T, H, W) normalised RGB -> (B, C, t, h, w)."""
    config: PretrainConfig
    """Settings of the run that trained it."""
    checkpoint_hash: str
    """First 16 hexadecimal digits of the file's SHA-256."""
    epoch: int
    """Whole epochs that it was trained for."""
    method: str
    """`fima` or `moco`."""

    @property
    def description(self) -> str:
        """One line for a table or a figure."""
        return f"{self.method} {self.config.model.backbone}, {self.epoch} epochs"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"fima": fima.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that `path` holds either the old file or the whole new one, even after a crash."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, without running any code that it may hold.

    Raises:
        CheckpointError: the file is missing, damaged, of another program, or of a newer version of this one.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = "; official checkpoints must be converted first" if _looks_official(content) else ""
        raise CheckpointError(f"{path}: a PyTorch file, but not a checkpoint of `fima pretrain`{hint}")
    if content["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"{path}: written by a newer fima ({content['versions']['fima']}); update fima")
    try:
        return Checkpoint(
            config=config_from_mapping(content["config"], PretrainConfig, source=str(path)),
            progress=Progress(**content["progress"]),
            **{key: content[key] for key in ("model", "optimizer", "rng", "data", "versions")},
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a complete checkpoint ({error})") from None


def load_encoder(path: Path, *, device: torch.device) -> LoadedEncoder:
    """Load the query encoder of a checkpoint in eval mode.

    Raises:
        CheckpointError: as `load_checkpoint`, or the weights do not fit the backbone that the checkpoint names.
    """
    checkpoint = load_checkpoint(path)
    config = checkpoint.config
    encoder = build_backbone(config.model.backbone)
    weights = {
        name.removeprefix(ENCODER_PREFIX): tensor
        for name, tensor in checkpoint.model.items()
        if name.startswith(ENCODER_PREFIX)
    }
    load_weights(encoder, weights, source=path, what=f"backbone {config.model.backbone}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return LoadedEncoder(
        encoder=encoder.to(device).eval(),
        config=config,
        checkpoint_hash=digest[:16],
        epoch=checkpoint.progress.epoch,
        method=config.method.name,
    )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, source: Path, what: str) -> None:
    """Load weights strictly.

    Raises:
        CheckpointError: names and shapes are not those of `module`; says which.
    """
    own = module.state_dict()
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
    module.load_state_dict(dict(weights))


def restore(saved: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer, *, source: Path) -> None:
    """Put weights, queues, optimiser and random state back.

    Raises:
        CheckpointError: the checkpoint is of another architecture.
    """
    load_weights(module, saved.model, source=source, what="model")
    optimizer.load_state_dict(saved.optimizer)
    torch.set_rng_state(saved.rng["cpu"])
    if saved.rng["cuda"] and len(saved.rng["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved.rng["cuda"])


def _read(path: Path) -> Any:  # noqa: ANN401
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not' if path.is_dir() else 'no such'} checkpoint file")
    with path.open("rb") as file:
        starts_as_zip = file.read(2) == b"PK"
    if starts_as_zip and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: truncated (copied or downloaded in part?); copy it again or use another one")
    try:
        with warnings.catch_warnings():
            # Files of other programs make torch warn about their pickle protocol before it refuses them.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        reason = "holds more than plain tensors and values, so it is not loaded" if starts_as_zip else "no checkpoint"
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (
            f"damaged or no checkpoint ({str(error).splitlines()[0]})" if str(error) else "damaged or no checkpoint"
        )
    raise CheckpointError(f"{path}: {reason}")


def _looks_official(content: object) -> bool:
    return isinstance(content, dict) and "state_dict" in content and "arch" in content
