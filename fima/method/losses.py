"""The three contrastive losses, as pure functions of embeddings, in log-sum-exp form.

All embeddings are L2-normalised, so a dot product is a cosine similarity. Half-precision inputs are computed in
float32, float64 stays float64, and autocast does not reach inside. In a group of processes a loss is scaled so that its
mean over the processes, and the mean of its gradients, is that of one process with the global batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fima.torch_tools.distributed import global_mean
from fima.torch_tools.precision import without_autocast

MAX_SIMILARITIES = 2**22
"""Cell similarities held at a time (16 MiB in float32)."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss, unweighted."""

    loss: Tensor
    """Mean over the samples of the global batch, of those that have a positive; scalar with gradient."""
    each: Tensor
    """Of each sample of this process, detached, (B,); 0 where it has no positive."""


@dataclass(frozen=True, kw_only=True)
class Contrast(Loss):
    """An InfoNCE loss and how well the positives stand out; scalars without gradient."""

    positive_similarity: Tensor
    """Mean cosine similarity of a query and its key."""
    negative_similarity: Tensor
    """Mean cosine similarity of a query and a negative."""
    top1: Tensor
    """Share of the queries that are closer to their key than to any negative."""


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where it already has float32 or float64; any shape."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def info_nce(
    query: Tensor, key: Tensor, negatives: Tensor, *, temperature: float, excluded: Tensor | None = None
) -> Contrast:
    """InfoNCE: each query must find its key among the negatives.

    `loss_i = log( exp(q_i·k_i/τ) + Σ_n exp(q_i·n/τ) ) - q_i·k_i/τ`, averaged over the samples of the global batch.

    Args:
        query: (B, D).
        key: the positive of each query, (B, D).
        negatives: shared by all queries, (K, D).
        temperature: τ.
        excluded: negatives that do not count for a query, bool (B, K); None: all count.
    """
    with without_autocast(query.device):
        query, key, negatives = full_precision(query), full_precision(key), full_precision(negatives)
        positive = (query * key).sum(dim=1, keepdim=True)
        negative = query @ negatives.T
        counted = negative if excluded is None else negative.masked_fill(excluded, float("-inf"))
        logits = torch.cat([positive, counted], dim=1) / temperature
        each = logits.logsumexp(dim=1) - logits[:, 0]
        loss = global_mean(each)
        with torch.no_grad():
            similarity = negative.detach().mean()
            if excluded is not None:
                num_counted = (~excluded).sum(dim=1).clamp(min=1)
                similarity = (negative.detach().where(~excluded, 0).sum(dim=1) / num_counted).mean()
            return Contrast(
                loss=loss,
                each=each.detach(),
                positive_similarity=positive.detach().mean(),
                negative_similarity=similarity,
                top1=(logits.argmax(dim=1) == 0).to(logits.dtype).mean(),
            )


def frame_motion(
    predictions: Tensor,
    keys: Tensor,
    batch_keys: Tensor,
    queue: Tensor,
    *,
    temperature: float,
    excluded: Tensor | None = None,
) -> list[Contrast]:
    """Frame-level motion loss: predict the local motion of the other clip (paper, frame-level motion).

    Each of the four predictions (clip b early, b late, a early, a late) meets its own key as the positive; the
    negatives are the three other kinds of key of the whole batch, then the motion queue. Returns the four losses.

    Args:
        predictions: (4, B, D).
        keys: their positives, in the same order, (4, B, D).
        batch_keys: the same keys of the global batch, (4, G, D); without several processes it equals `keys`.
        queue: keys of earlier steps, (K, D).
        temperature: τ.
        excluded: negatives that do not count for a sample, bool (B, 3·G + K), in their order; None: all count.
    """
    contrasts = []
    for kind in range(len(predictions)):
        others = [batch_keys[other] for other in range(len(batch_keys)) if other != kind]
        negatives = torch.cat([*others, queue])
        contrasts.append(info_nce(predictions[kind], keys[kind], negatives, temperature=temperature, excluded=excluded))
    return contrasts


def cell_centres(box: Tensor, height: int, width: int) -> Tensor:
    """Centres of a feature map's cells in the source frame.

    `x = x0 + (i + 0.5)·(x1 - x0)/w`, likewise y; a flipped box (x0 > x1) gives mirrored centres.

    Args:
        box: (x0, y0, x1, y1) of the crop, normalised to the source frame, (B, 4).
        height: rows h of the feature map.
        width: columns w of the feature map.

    Returns:
        (x, y) of every cell, row by row, (B, h·w, 2).
    """
    x0, y0, x1, y1 = box[:, :, None].unbind(dim=1)
    columns = (torch.arange(width, device=box.device, dtype=box.dtype) + 0.5) / width
    rows = (torch.arange(height, device=box.device, dtype=box.dtype) + 0.5) / height
    x = (x0 + columns * (x1 - x0))[:, None, :].expand(-1, height, -1)
    y = (y0 + rows * (y1 - y0))[:, :, None].expand(-1, -1, width)
    return torch.stack([x, y], dim=-1).flatten(1, 2)


def positive_pairs(
    query_box: Tensor, key_box: Tensor, query_mask: Tensor, key_mask: Tensor, *, pos_ratio: float
) -> Tensor:
    """Pairs of cells that show the same place of the scene (paper, pixel-level motion).

    Two cells are a pair if both are foreground and the distance of their centres, divided by the larger cell diagonal
    of the two boxes, is less than `pos_ratio`.

    Args:
        query_box: crop of the predicting clip, (B, 4).
        key_box: crop of the predicted clip, (B, 4).
        query_mask: foreground of the predicting clip, bool (B, h, w).
        key_mask: foreground of the predicted clip, bool (B, h, w).
        pos_ratio: limit of the normalised distance.

    Returns:
        True for a pair, (B, N, N): query cell, key cell.
    """
    height, width = query_mask.shape[-2:]
    query_centres, key_centres = (cell_centres(box, height, width) for box in (query_box, key_box))
    distance = torch.linalg.vector_norm(query_centres[:, :, None] - key_centres[:, None], dim=-1)
    query_diagonal, key_diagonal = (
        torch.hypot((box[:, 2] - box[:, 0]) / width, (box[:, 3] - box[:, 1]) / height) for box in (query_box, key_box)
    )
    near: Tensor = distance / torch.maximum(query_diagonal, key_diagonal)[:, None, None] < pos_ratio
    return near & query_mask.flatten(1)[:, :, None] & key_mask.flatten(1)[:, None, :]


class _LogSumExp(torch.autograd.Function):
    """`log Σ_k exp(q·k/τ)`, whose gradient is the softmax-weighted mean of the keys, divided by τ.

    That mean is taken while the similarities are at hand, so that neither they nor the softmax outlive their chunk.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, temperature: float, excluded: Tensor | None) -> Tensor:  # noqa: ANN401
        """Log-sum-exp of each row of `query`, (N, D), over its keys, (K, D): (N,)."""
        num_rows = max(1, MAX_SIMILARITIES // len(keys))
        scaled = query / temperature
        result = query.new_empty(len(query))
        gradient = torch.empty_like(query)
        buffer = query.new_empty(min(num_rows, len(query)), len(keys))
        for start in range(0, len(query), num_rows):
            rows = slice(start, start + num_rows)
            similarities = torch.mm(scaled[rows], keys.T, out=buffer[: len(scaled[rows])])
            if excluded is not None:
                samples = torch.arange(start, start + len(similarities), device=query.device)
                samples = samples * len(excluded) // len(query)
                similarities.masked_fill_(excluded[samples], float("-inf"))
            largest = similarities.amax(dim=1, keepdim=True)
            total = similarities.sub_(largest).exp_().sum(dim=1, keepdim=True)
            result[rows] = (largest + total.log())[:, 0]
            torch.mm(similarities, keys, out=gradient[rows]).div_(total * temperature)
        ctx.save_for_backward(gradient)
        return result

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        """Gradient of the query, (N, D); the keys have none."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None], None, None, None


def log_sum_exp(query: Tensor, keys: Tensor, temperature: float, excluded: Tensor | None = None) -> Tensor:
    """`log Σ_k exp(q·k/τ)`, exact, never holding more than `MAX_SIMILARITIES` similarities (or one row of them).

    Args:
        query: (R, D), with gradient.
        keys: (M, D), without.
        temperature: τ.
        excluded: keys that do not count, bool (B, M), a row for each R / B queries in order; None: all count.

    Returns:
        (R,).
    """
    assert not keys.requires_grad, "the keys are constants of the step"
    result: Tensor = _LogSumExp.apply(query, keys, temperature, excluded)
    return result


def cell_motion(
    predictions: Tensor,
    keys: Tensor,
    pairs: Tensor,
    batch_cells: Tensor,
    *,
    temperature: float,
    excluded: Tensor | None = None,
) -> Loss:
    """Pixel-level motion loss of one temporal slice: predict the motion in the cells of the other clip.

    Per query cell that has a positive: `-log( Σ_positives exp(q·k/τ) / Σ_all exp(q·k/τ) )`; the mean over a sample's
    such cells, then over the samples of the global batch that have any. Exactly 0, with zero gradients, where none has.

    Args:
        predictions: predicted motion cells, (B, N, D).
        keys: motion cells of the other clip in the same slice, (B, N, D).
        pairs: `positive_pairs` of the two clips, (B, N, N).
        batch_cells: everything the denominator sums over: the cells of all slices of the other clip, `keys` included,
            of the global batch, then the dense queue, (M, D).
        temperature: τ.
        excluded: of `batch_cells`, those that do not count for a sample, bool (B, M); None: all count.
    """
    with without_autocast(predictions.device):
        predictions, keys, batch_cells = map(full_precision, (predictions, keys, batch_cells))
        # Cells without a positive are computed too, and left out: choosing rows would make a GPU wait for the host.
        has_positive = pairs.any(dim=2)
        similarities = predictions @ keys.transpose(1, 2) / temperature
        others = has_positive[:, :, None] & ~pairs
        numerator = similarities.masked_fill(others, float("-inf")).logsumexp(dim=2)
        denominator = log_sum_exp(predictions.flatten(0, 1), batch_cells, temperature, excluded)
        denominator = denominator.view_as(numerator)
        losses = (denominator - numerator).where(has_positive, 0).sum(dim=1)
        cells_per_sample = has_positive.sum(dim=1)
        each = losses / cells_per_sample.clamp(min=1)
        return Loss(loss=global_mean(each, cells_per_sample > 0), each=each.detach())
