"""Checkpoints of the authors' code ↔ ours: the same tensors under other names and shapes, in another order."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fima.errors import CheckpointError
from fima.method.queue import VIDEO_IDS

PREFIX = "module."
"""What the authors' checkpoints put before every key (DistributedDataParallel)."""

OFFICIAL_TO_FIMA = {
    "cls_token": "cls_token",
    "queue": "queue.keys",
    "queue_ptr": "queue.position",
    "motion_queue": "motion_queue.keys",
    "motion_queue_ptr": "motion_queue.position",
    "queue_dense": "cell_queue.keys",
    "queue_dense_ptr": "cell_queue.position",
    "encoder_q.": "query_encoder.",
    "encoder_k.": "key_encoder.",
    "projector_dense.net.": "projector.layers.",
    "projector_dense_k.net.": "key_projector.layers.",
    "embedding1.": "reduce.",
    "embedding2.": "expand.",
    "transformer_decoder.": "decoder.",
}
"""Beginnings of keys (those that end in a dot) and whole keys, in the order of the authors' state dict, and so of the
weights that its optimiser counts."""

DECODER_PARTS = {
    "multihead_attn.": "attention.",
    "linear1.": "feed_forward.0.",
    "linear2.": "feed_forward.3.",
    "norm2.": "attention_norm.",
    "norm3.": "feed_forward_norm.",
}
"""Parts of a decoder layer."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "queue", "_ptr", "queue_dense")
"""Ends of the authors' keys that are no weights."""

FROZEN = ("encoder_k.", "projector_dense_k.")
"""Parts of the authors' model that no gradient reaches."""

LINEAR = ("projector.", "key_projector.", "reduce.", "expand.")
"""Linear layers of ours that are 1×1 convolutions in the authors' code."""


def _translate(key: str, table: Mapping[str, str], decoder: str, decoder_parts: Mapping[str, str]) -> str:
    for theirs, ours in table.items():
        if key == theirs or (theirs.endswith(".") and key.startswith(theirs)):
            translated = ours + key[len(theirs) :]
            break
    else:
        raise CheckpointError(f"{key}: not a key of this kind of checkpoint; is it a checkpoint of another model?")
    if key.startswith(decoder):
        for theirs, ours in decoder_parts.items():
            translated = translated.replace(f".{theirs}", f".{ours}")
    return translated


def official_to_fima(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a pre-training checkpoint of the authors' code: its `state_dict`, with or without `module.`.

    Linear weights lose the two trailing sizes of a 1×1 convolution, queues are (K, D) instead of (D, K), and queue
    positions are scalars. No value changes. Raises CheckpointError for a key that is not one of theirs.
    """
    return {(name := fima_name(key)): _reshaped(name, value, official=False) for key, value in state.items()}


def fima_name(key: str) -> str:
    """Our name of an official key, with or without the prefix `module.`; CheckpointError for no key of theirs."""
    return _translate(key.removeprefix(PREFIX), OFFICIAL_TO_FIMA, "transformer_decoder.", DECODER_PARTS)


def official_name(key: str) -> str:
    """The official name, without prefix, of a key of ours; CheckpointError for no key of ours."""
    names, parts = ({ours: theirs for theirs, ours in table.items()} for table in (OFFICIAL_TO_FIMA, DECODER_PARTS))
    return _translate(key, names, "decoder.", parts)


def _reshaped(name: str, value: Tensor, *, official: bool) -> Tensor:
    """A tensor with the shape that it has in the authors' code, or in ours; the name is ours."""
    if name.endswith("queue.keys"):
        return value.T.contiguous()
    if name.endswith("queue.position"):
        return value.reshape((1,) if official else ())
    if name.startswith(LINEAR) and name.endswith("weight"):
        return value[:, :, None, None] if official else value.flatten(1)
    return value


def fima_to_official(state: Mapping[str, Tensor], *, prefix: str = PREFIX) -> dict[str, Tensor]:
    """The authors' state dict of that of a `FIMA`, a prefix before every key; the inverse of `official_to_fima`.

    The videos of the keys, which a run with `method.exclude_same_video` knows, have no place in theirs. Raises
    CheckpointError for a key that is not one of ours.
    """
    known = {name: value for name, value in state.items() if not name.endswith(VIDEO_IDS)}
    converted = {official_name(name): _reshaped(name, value, official=True) for name, value in known.items()}
    return {prefix + key: converted[key] for key in in_official_order(list(converted))}


def in_official_order(keys: Sequence[str]) -> list[str]:
    """Official keys without prefix, every encoder's own in its order, in the order of the authors' state dict."""
    tops, parts = [name.split(".")[0] for name in OFFICIAL_TO_FIMA], list(DECODER_PARTS)

    def rank(key: str) -> tuple[int, ...]:
        top = tops.index(key.split(".")[0])
        if not key.startswith("transformer_decoder."):
            return (top,)
        _, _, layer, part, *_ = key.split(".")
        return (top, int(layer), parts.index(f"{part}."))

    return sorted(keys, key=rank)


def optimizer_to_fima(
    optimizer: Mapping[str, Any], keys: Sequence[str], trained: Sequence[str]
) -> tuple[dict[str, Any], bool]:
    """Our optimiser's state dict of theirs, an SGD with one group, and whether it counts the frozen weights too.

    The numbers of its weights follow the order of the authors' state dict, whose keys are given without prefix; ours
    follow `trained`, our names of the weights that our optimiser counts. Raises CheckpointError for that of another
    model, or one of several groups.
    """
    counted = len(optimizer["param_groups"][0]["params"]) if len(optimizer["param_groups"]) == 1 else None
    counts_frozen = counted == len(_weights(keys, counts_frozen=True))
    names = _weights(keys, counts_frozen=counts_frozen)
    ours = [fima_name(key) for key in names]
    if counted != len(names) or not set(trained) <= set(ours):
        raise CheckpointError(f"the optimizer is not that of the model: {counted} weights, not {len(names)}")
    return _renumbered(optimizer, ours, trained, official=False), counts_frozen


def optimizer_to_official(
    optimizer: Mapping[str, Any], keys: Sequence[str], trained: Sequence[str], *, counts_frozen: bool = True
) -> dict[str, Any]:
    """The inverse of `optimizer_to_fima`."""
    weights = [fima_name(key) for key in _weights(keys, counts_frozen=counts_frozen)]
    return _renumbered(optimizer, trained, weights, official=True)


def _weights(keys: Sequence[str], *, counts_frozen: bool) -> list[str]:
    """Official keys of the weights that the authors' optimiser counts, in its order."""
    weights = [key for key in in_official_order(keys) if not key.endswith(BUFFERS)]
    return weights if counts_frozen else [key for key in weights if not key.startswith(FROZEN)]


def _renumbered(
    optimizer: Mapping[str, Any], names: Sequence[str], others: Sequence[str], *, official: bool
) -> dict[str, Any]:
    """The same state, whose weights are numbered by the names, in a group of weights numbered by the others."""
    numbers = {name: number for number, name in enumerate(others)}
    state = {
        numbers[names[old]]: {
            key: _reshaped(names[old], value, official=official) if isinstance(value, Tensor) and value.ndim else value
            for key, value in values.items()
        }
        for old, values in optimizer["state"].items()
        if names[old] in numbers
    }
    (group,) = optimizer["param_groups"]
    return {"state": state, "param_groups": [{**group, "params": list(range(len(others)))}]}
