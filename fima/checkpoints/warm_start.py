"""The weights that a new run starts from: what of a file fits the encoder, image networks inflated over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import Size, Tensor

from fima.checkpoints.checkpoint import described
from fima.checkpoints.pretrained import EncoderFile, encoder_file, nearest_backbone, read_encoder, shapes_of
from fima.errors import CheckpointError, suggestion

LEAST_SHARE = 0.5
"""Share of the encoder's weights that a file must hold at least; with less, it is taken for another network's."""
MOST_NAMED = 3
TORCHVISION = "torchvision:"
COUNTERS, AUXILIARY = "num_batches_tracked", "aux"


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Weights of a file for an encoder, and what became of the rest."""

    source: str
    description: str
    weights: dict[str, Tensor]
    """Those that are loaded, by their names in the encoder."""
    num_inflated: int
    """Those of them that were repeated over time."""
    missing: Sequence[str]
    """Weights of the encoder that the file does not give, each with the reason."""
    left_over: Sequence[str]
    """Names in the file that are not of the encoder."""

    def lines(self) -> list[str]:
        """Say what is loaded, what is not, and why."""
        total = len(self.weights) + len(self.missing)
        inflated = f", {self.num_inflated} of them inflated over time" if self.num_inflated else ""
        said = [
            f"encoder from {self.source}: {self.description}, {len(self.weights)} of {total} tensors of the encoder"
            f"{inflated}; heads, queues and optimiser anew"
        ]
        if self.missing:
            said.append(f"  not loaded, random weights stay: {_named(self.missing)}")
        if self.left_over:
            said.append(f"  in the file, not of the encoder: {_named(self.left_over)}")
        return said


def read_warm_start(source: str, backbone: str) -> WarmStart:
    """Read the weights for an encoder: what `load_pretrained` takes, or `torchvision:NAME` in PyTorch's cache.

    A network of images, such as torchvision's, is recognised by its 2-D convolutions. Its layers must be those of the
    backbone, in the same order. A convolution is repeated over the T frames of the kernel and divided by T, so that it
    says of a still video what it says of the picture (Carreira & Zisserman, 2017). Raises CheckpointError where the
    file cannot be read, is of another architecture, or fits too little of the encoder.
    """
    is_name = source.startswith(TORCHVISION)
    file = _cached(source) if is_name else encoder_file(Path(source))
    return fitted(read_encoder(file), source, backbone)


def _cached(source: str) -> Path:
    """The file of torchvision's default weights in PyTorch's cache; nothing is fetched."""
    # Loading torchvision costs as much as PyTorch itself; only this source needs it.
    from torchvision import models

    name = source.removeprefix(TORCHVISION)
    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError:
        near = suggestion(name, models.list_models())
        raise CheckpointError(f"{source}: torchvision has no such network{near}") from None
    path = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlsplit(weights.url).path).name)
    if not path.is_file():
        fetch = f"import torchvision; torchvision.models.get_model_weights({name!r}).DEFAULT.get_state_dict()"
        raise CheckpointError(f'{source}: not in PyTorch\'s cache ({path}); fetch it with `python -c "{fetch}"`')
    return path


def fitted(found: EncoderFile, source: str, backbone: str) -> WarmStart:
    """Return what of a file fits an encoder; see `read_warm_start`."""
    held = nearest_backbone(found.weights) if found.config is None else found.config.model.backbone
    if found.config is not None and held != backbone:
        remedy = f"give --model.backbone {held}, or --model.init-from None to start from random weights"
        raise CheckpointError(f"--model.init-from {source}: its encoder is {held}, not {backbone}; {remedy}")
    own = shapes_of(backbone)
    weights = {name: value for name, value in found.weights.items() if own.get(name) == value.shape}
    num_inflated, left_over, dimensions = 0, list(found.left_over), {value.ndim for value in found.weights.values()}
    if _share(weights, own) < LEAST_SHARE and 4 in dimensions and 5 not in dimensions:
        held = "image network"
        left_over += [name for name in found.weights if name.startswith(AUXILIARY)]
        weights = inflated(found.weights, own, source=source, backbone=backbone)
        num_inflated = sum(len(own[name]) == 5 for name in weights)
    if _share(weights, own) < LEAST_SHARE:
        known = "" if held in (None, backbone) else f"its encoder is {held}, and "
        gives = f"it gives only {_share(weights, own):.0%} of the weights of {backbone}"
        raise CheckpointError(f"{source}: {known}{gives}; give another file, or the --model.backbone that it is of")
    return WarmStart(
        source=source,
        description=described(found.method, held, found.epoch),
        weights=weights,
        num_inflated=num_inflated,
        missing=[
            f"`{name}` ({_reason(found.weights.get(name), shape)})"
            for name, shape in own.items()
            if name not in weights and not name.endswith(COUNTERS)
        ],
        left_over=left_over,
    )


def inflated(
    weights: Mapping[str, Tensor], own: Mapping[str, Size], *, source: str, backbone: str
) -> dict[str, Tensor]:
    """Return the weights of an image network, layer by layer, in the shapes of a video network, without a classifier.

    Both are in the order of their layers. Raises CheckpointError, with the first that differs, where they are others.
    """
    theirs = [name for name in weights if not name.endswith(COUNTERS) and not name.startswith(AUXILIARY)]
    ours = [name for name in own if not name.endswith(COUNTERS)]
    result = {}
    for name, target in zip_longest(theirs, ours, fillvalue=""):
        weight = _over_time(name, weights.get(name), target, own.get(target))
        if weight is None:
            first = f"`{name}`, {tuple(weights[name].shape)}" if name else "nothing"
            second = f"`{target}`, {tuple(own[target])}" if target else "nothing"
            raise CheckpointError(
                f"{source}: an image network whose layers are not those of {backbone} ({first} where it has {second}); "
                "ResNet-18 fits r3d_18 and mc3_18, GoogLeNet fits i3d"
            )
        result[target] = weight
    return result


def _over_time(name: str, value: Tensor | None, target: str, shape: Size | None) -> Tensor | None:
    """The weight in the shape of the other one; None where the two are not of the same kind."""
    if value is None or shape is None or name.rpartition(".")[2] != target.rpartition(".")[2]:
        return None
    if value.shape == shape:
        return value
    if value.ndim == 4 and len(shape) == 5 and value.shape == shape[:2] + shape[3:]:
        return value[:, :, None].expand(shape) / shape[2]
    return None


def _share(weights: Mapping[str, Tensor], own: Mapping[str, Size]) -> float:
    return sum(own[name].numel() for name in weights) / sum(shape.numel() for shape in own.values())


def _reason(value: Tensor | None, shape: Size) -> str:
    return "not in the file" if value is None else f"{tuple(value.shape)} in the file, not {tuple(shape)}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
