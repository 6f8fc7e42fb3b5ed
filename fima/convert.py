"""Checkpoints of the authors' code ↔ ours: the same tensors under other names and shapes."""

from collections.abc import Mapping

from torch import Tensor

from fima.errors import CheckpointError

PREFIX = "module."
"""What the authors' checkpoints put before every key (DistributedDataParallel)."""

OFFICIAL_TO_FIMA = {
    "encoder_q.": "query_encoder.",
    "encoder_k.": "key_encoder.",
    "projector_dense.net.": "projector.layers.",
    "projector_dense_k.net.": "key_projector.layers.",
    "embedding1.": "reduce.",
    "embedding2.": "expand.",
    "transformer_decoder.": "decoder.",
    "cls_token": "cls_token",
    "queue_dense_ptr": "cell_queue.position",
    "queue_dense": "cell_queue.keys",
    "motion_queue_ptr": "motion_queue.position",
    "motion_queue": "motion_queue.keys",
    "queue_ptr": "queue.position",
    "queue": "queue.keys",
}
"""Beginnings of keys (those that end in a dot) and whole keys."""

DECODER_PARTS = {
    "multihead_attn.": "attention.",
    "linear1.": "feed_forward.0.",
    "linear2.": "feed_forward.3.",
    "norm2.": "attention_norm.",
    "norm3.": "feed_forward_norm.",
}
"""Parts of a decoder layer."""

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


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in table.items()}


def official_to_fima(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a pre-training checkpoint of the authors' code (its `state_dict` entry).

    Linear weights lose the two trailing sizes of a 1×1 convolution, queues are (K, D) instead of (D, K), and queue
    positions are scalars. No value changes.

    Args:
        state: with or without the prefix `module.`.

    Raises:
        CheckpointError: a key is not one of theirs.
    """
    converted = {}
    for key, value in state.items():
        name = _translate(key.removeprefix(PREFIX), OFFICIAL_TO_FIMA, "transformer_decoder.", DECODER_PARTS)
        if name.endswith("queue.keys"):
            value = value.T.contiguous()
        elif name.endswith("queue.position"):
            value = value.reshape(())
        elif name.startswith(LINEAR) and name.endswith("weight"):
            value = value.flatten(1)
        converted[name] = value
    return converted


def fima_to_official(state: Mapping[str, Tensor], *, prefix: str = PREFIX) -> dict[str, Tensor]:
    """The authors' state dict of ours; the inverse of `official_to_fima`.

    Args:
        state: state dict of a `MoCo` or a `FIMA`.
        prefix: what to put before every key.

    Raises:
        CheckpointError: a key is not one of ours.
    """
    converted = {}
    for key, value in state.items():
        if key.endswith("queue.keys"):
            value = value.T.contiguous()
        elif key.endswith("queue.position"):
            value = value.reshape(1)
        elif key.startswith(LINEAR) and key.endswith("weight"):
            value = value[:, :, None, None]
        name = _translate(key, _inverse(OFFICIAL_TO_FIMA), "decoder.", _inverse(DECODER_PARTS))
        converted[prefix + name] = value
    return converted
