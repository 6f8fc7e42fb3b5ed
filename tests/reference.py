"""The golden numbers' weights and inputs, and the losses written as loops, one equation at a time."""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

GOLDEN = Path(__file__).parent / "golden"


def golden_numbers() -> dict[str, Any]:
    """Everything that was recorded as JSON, by case."""
    numbers: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text())
    return numbers


def golden_parts() -> dict[str, Tensor]:
    """The stored tensors, by `<case>.<name>`."""
    parts: dict[str, Tensor] = load_file(GOLDEN / "parts.safetensors")
    return parts


def noise(name: str, shape: Sequence[int]) -> Tensor:
    """The reproducible numbers in [-1, 1) that stand for `name`, float64."""
    u = torch.arange(math.prod(shape), dtype=torch.float64)
    # In place: a network has millions of them.
    u.mul_(12.9898).add_(0.37 * (zlib.crc32(name.encode()) % 10007)).sin_().mul_(43758.5453)
    return u.sub_(u.floor()).mul_(2).sub_(1).reshape(tuple(shape))


def noise_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A state dict with official names filled with noise, scaled as each kind of tensor needs."""
    return {key: _noise_value(key, shape) for key, shape in shapes.items()}


def _noise_value(key: str, shape: Sequence[int]) -> Tensor:
    if key.endswith(("num_batches_tracked", "_ptr")):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    values = noise(key, shape)
    if key.endswith("running_var"):
        return 1 + 0.5 * values**2
    if key.endswith("running_mean") or key == "cls_token":
        return 0.1 * values
    if key in ("queue", "motion_queue", "queue_dense"):
        return normalize(values, dim=0)
    if len(shape) == 1:
        return 1 + 0.1 * values if key.endswith("weight") else 0.1 * values
    return values * math.sqrt(6 / math.prod(shape[1:]))


def info_nce_loop(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE (B, D), (B, D), (K, D) → scalar."""
    total = torch.zeros((), dtype=query.dtype)
    for q, k in zip(query, key, strict=True):
        positive = torch.exp(q @ k / temperature)
        denominator = positive
        for negative in negatives:
            denominator = denominator + torch.exp(q @ negative / temperature)
        total = total - torch.log(positive / denominator)
    return total / len(query)


def frame_motion_loop(predictions: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> list[Tensor]:
    """The four frame-level losses of (4, B, D), (4, B, D), (K, D)."""
    result = []
    for kind in range(4):
        negatives = [key for other in range(4) if other != kind for key in keys[other]] + list(queue)
        result.append(info_nce_loop(predictions[kind], keys[kind], torch.stack(negatives), temperature))
    return result


def _centre(box: Tensor, column: int, row: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    x0, y0, x1, y1 = box
    return x0 + (column + 0.5) * (x1 - x0) / width, y0 + (row + 0.5) * (y1 - y0) / height


def positive_pairs_loop(
    query_box: Tensor, key_box: Tensor, query_mask: Tensor, key_mask: Tensor, pos_ratio: float
) -> Tensor:
    """Pairs of cells, (B, N, N), from boxes (B, 4) and masks (B, h, w)."""
    batch_size, height, width = query_mask.shape
    pairs = torch.zeros(batch_size, height * width, height * width, dtype=torch.bool)
    for sample in range(batch_size):
        boxes = (query_box[sample], key_box[sample])
        diagonal = max(math.hypot((box[2] - box[0]) / width, (box[3] - box[1]) / height) for box in boxes)
        for query_cell in range(height * width):
            query_row, query_column = divmod(query_cell, width)
            query_x, query_y = _centre(boxes[0], query_column, query_row, width, height)
            for key_cell in range(height * width):
                key_row, key_column = divmod(key_cell, width)
                key_x, key_y = _centre(boxes[1], key_column, key_row, width, height)
                near = math.hypot(query_x - key_x, query_y - key_y) / diagonal < pos_ratio
                foreground = query_mask[sample, query_row, query_column] and key_mask[sample, key_row, key_column]
                pairs[sample, query_cell, key_cell] = near and bool(foreground)
    return pairs


def cell_motion_loop(
    predictions: Tensor, keys: Tensor, pairs: Tensor, batch_cells: Tensor, temperature: float
) -> Tensor:
    """Pixel-level loss of (B, N, D), (B, N, D), (B, N, N), (M, D)."""
    sample_losses = []
    for prediction, sample_keys, sample_pairs in zip(predictions, keys, pairs, strict=True):
        cell_losses = []
        for query, row in zip(prediction, sample_pairs, strict=True):
            if row.any():
                positives = torch.exp(sample_keys[row] @ query / temperature).sum()
                everything = torch.exp(batch_cells @ query / temperature).sum()
                cell_losses.append(-torch.log(positives / everything))
        if cell_losses:
            sample_losses.append(torch.stack(cell_losses).mean())
    return torch.stack(sample_losses).mean() if sample_losses else predictions.sum() * 0
