"""Whole checkpoints of the authors' program: read as one of ours, and written from one of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fima.checkpoints import convert
from fima.checkpoints.checkpoint import (
    Checkpoint,
    Progress,
    below,
    check_weights,
    is_of_kind,
    parse_checkpoint,
    versions,
)
from fima.checkpoints.pretrained import encoder_file, nearest_backbone
from fima.checkpoints.torch_file import HoldsClassesError, is_plain, is_state_dict, read_content, read_inert
from fima.config import MethodConfig, ModelConfig, PretrainConfig
from fima.errors import CheckpointError, first_line
from fima.method.fima import FIMA

ARCHITECTURES = {"i3d": "I3D", "r2plus1d_18": "r2plus1d_18", "r3d_18": "r3d_18", "tiny": "tiny"}
"""Our names of the backbones, and those of the authors."""


def load_training_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of `fima pretrain` or of the authors' pre-training onto the CPU. Raises CheckpointError.

    A folder is taken as by `encoder_file`. Entries of the authors' file with objects of other classes, such as a
    Namespace of settings, are left out.
    """
    path = encoder_file(path)
    try:
        content = read_content(path)
    except HoldsClassesError:
        content, _ = read_inert(path)
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if is_plain(value)}
    if isinstance(content, dict) and "state_dict" in content and not is_of_kind(content, Checkpoint):
        return import_official(content, source=path)
    return parse_checkpoint(content, Checkpoint, source=path)


def import_official(content: Mapping[str, Any], *, source: Path) -> Checkpoint:
    """Return a checkpoint of the authors' pre-training, FIMA or MoCo, as one of ours.

    The content is a mapping with `state_dict`; `epoch`, `arch`, `optimizer` if present. The settings follow from the
    shapes; what these do not tell keeps its default. No value changes, and what has no place in ours is kept in
    `Checkpoint.imported`. Raises CheckpointError where it is of another model or parts are missing.
    """
    rest = dict(content)
    state, optimizer = rest.pop("state_dict"), content.get("optimizer")
    if not is_state_dict(state):
        raise CheckpointError(f"{source}: its state_dict has other values than tensors by their names")
    # An empty state stands for none.
    has_optimizer = isinstance(optimizer, Mapping) and {"state", "param_groups"} <= optimizer.keys()
    prefix = convert.PREFIX if all(key.startswith(convert.PREFIX) for key in state) else ""
    try:
        model = convert.official_to_fima(state)
        config = _config(model)
        with torch.device("meta"):
            method = FIMA(config.model, config.method)
        check_weights(model, method.state_dict(), source=source, what=f"pre-training of {config.model.backbone}")
        if has_optimizer:
            keys = [key.removeprefix(convert.PREFIX) for key in state]
            optimizer, counts_frozen = convert.optimizer_to_fima(rest.pop("optimizer"), keys, _trained(method))
        else:
            optim, weights = config.optim, [weight for weight in method.parameters() if weight.requires_grad]
            new = torch.optim.SGD(weights, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
            optimizer, counts_frozen = new.state_dict(), True
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {str(error).removeprefix(f'{source}: ')}") from None
    except Exception as error:  # sizes and an optimiser of another program can be wrong in any way
        raise CheckpointError(
            f"{source}: not a checkpoint of the authors' pre-training ({first_line(error)})"
        ) from None
    epoch = content.get("epoch", 0)
    return Checkpoint(
        config=config,
        progress=Progress(epoch=epoch if isinstance(epoch, int) else 0),
        model=model,
        optimizer=optimizer,
        data={"num_videos": 0, "layout": "unknown"},
        versions=versions(),
        imported={"prefix": prefix, "counts_frozen": counts_frozen, "has_optimizer": has_optimizer, "rest": rest},
    )


def export_official(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the authors' program would have written. Raises CheckpointError where its optimiser is not theirs."""
    name, num_groups = checkpoint.config.optim.name, len(checkpoint.optimizer.get("param_groups", []))
    if name != "sgd" or num_groups > 1:
        raise CheckpointError(
            f"its optimiser ({name}, groups of weights: {num_groups}) is not the authors', SGD with one group; "
            "`fima convert --encoder-only` writes the encoder"
        )
    arch = ARCHITECTURES.get(checkpoint.config.model.backbone, checkpoint.config.model.backbone)
    imported = {
        "prefix": convert.PREFIX,
        "counts_frozen": True,
        "has_optimizer": True,
        "rest": {"epoch": checkpoint.progress.epoch, "arch": arch},
        **checkpoint.imported,
    }
    state = convert.fima_to_official(checkpoint.model, prefix=imported["prefix"])
    content = {**imported["rest"], "state_dict": state}
    if imported["has_optimizer"]:
        with torch.device("meta"):
            method = FIMA(checkpoint.config.model, checkpoint.config.method)
        content["optimizer"] = convert.optimizer_to_official(
            checkpoint.optimizer,
            [key.removeprefix(imported["prefix"]) for key in state],
            _trained(method),
            counts_frozen=imported["counts_frozen"],
        )
    return content


def _trained(method: nn.Module) -> list[str]:
    """Return the names of the weights that a run's optimiser counts, in its order."""
    return [name for name, weight in method.named_parameters() if weight.requires_grad]


def _config(model: Mapping[str, Tensor]) -> PretrainConfig:
    """Return the settings that the shapes of a model tell."""
    backbone = nearest_backbone(below(model, "query_encoder."))
    needed = ("projector.layers.0.weight", "projector.layers.2.weight", "queue.keys")
    missing = [name for name in needed if name not in model]
    if backbone is None or missing:
        raise CheckpointError(
            f"not a whole pre-training checkpoint: {', '.join(missing) or 'a known encoder'} is missing; "
            "an encoder alone needs no conversion (`fima convert --encoder-only` writes it without the rest)"
        )
    shapes = {name: tuple(value.shape) for name, value in model.items()}
    layers = {name.split(".")[2] for name in shapes if name.startswith("decoder.layers.")}
    decoder: dict[str, Any] = {}
    if layers:
        decoder = {"decoder_dim": shapes["reduce.weight"][0], "decoder_layers": len(layers)}
    motion, cells = "motion_queue.keys" in shapes, shapes.get("cell_queue.keys", (0,))[0]
    fima = bool(motion or layers)
    return PretrainConfig(
        model=ModelConfig(
            backbone=backbone,
            projector_hidden=shapes["projector.layers.0.weight"][0],
            embedding_dim=shapes["projector.layers.2.weight"][0],
            **decoder,
        ),
        method=MethodConfig(
            name="fima" if fima else "moco",
            queue_size=shapes["queue.keys"][0],
            cell_queue_size=cells,
            frame_weight=float(motion or not fima),
            decoder=bool(layers or not fima),
        ),
    )
