"""One step of a classifier: forward, check, backward; in parts where the memory is too small for the whole batch."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fima.config import FinetuneConfig
from fima.data.augment import apply_colour
from fima.data.labelled import LabelledBatch
from fima.torch_tools import distributed
from fima.torch_tools.precision import autocast
from fima.train.step import NotFiniteError, reduce_gradients


def forward_backward(
    model: nn.Module, config: FinetuneConfig, batch: LabelledBatch, device: torch.device
) -> dict[str, float]:
    """Leave the gradient of a batch's mean cross-entropy in the weights, in `optim.accumulate` parts.

    Args:
        model: a `Classifier`, or one wrapped for several devices.
        config: settings of the run.
        batch: this process's videos, on the CPU.
        device: where the model is.

    Returns:
        `loss` and `top1` (percent) of the global batch.

    Raises:
        NotFiniteError: the loss of any process is not finite.
    """
    parts = batch.split(config.optim.accumulate)
    totals = torch.zeros(3, device=device)
    for number, part in enumerate(parts):
        with reduce_gradients(model, now=number == len(parts) - 1):
            logits, loss = forward(model, config, part.to(device))
            torch.autograd.backward(loss * (len(part.paths) / len(batch.paths)))
        hits = (logits.argmax(dim=1) == part.labels.to(device)).sum()
        totals += torch.stack([loss.detach() * len(part.paths), hits, torch.full_like(hits, len(part.paths))])
    loss_sum, num_hits, num_videos = distributed.all_reduce_sum(totals).tolist()
    if not math.isfinite(loss_sum):
        raise NotFiniteError(f"cross-entropy {loss_sum / num_videos}", batch.paths)
    return {"loss": loss_sum / num_videos, "top1": 100 * num_hits / num_videos}


def forward(model: nn.Module, config: FinetuneConfig, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
    """Return the logits (B, classes) and the mean cross-entropy of a batch that is on the device."""
    clips = apply_colour(batch.clips.float().div_(255), batch.draws)
    with autocast(clips.device, config.run.precision):
        logits: Tensor = model(clips)
    return logits, cross_entropy(logits, batch.labels)
