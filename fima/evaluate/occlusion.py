"""Occlusion maps: how much the pooled feature of a clip changes when a part of its frames is covered."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.evaluate.features import encode
from fima.method.heads import pooled

PATCHES = 8
"""Covered places along the short side of the frame; each covers twice the distance between two of them."""
GREY = 128
COVERED_AT_ONCE = 64
"""Covered clips that go through the encoder together, at most."""


def occlusion_map(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return how much the features of clips change when a grey square covers a place in all frames.

    `1 − cos(f(x), f(x with the square))`, f the feature map of the RGB clip averaged over time and space; after Zeiler
    and Fergus (2014), who watch a class score in place of f. A quarter of the short side is covered at a time, at
    places an eighth of it apart.

    Args:
        encoder: (B, 3, F, H, W) normalised RGB -> (B, C, t, h, w), in eval mode.
        clips: uint8 (B, 3, F, H, W), on the encoder's device.

    Returns:
        (B, rows, columns) float32, of square cells as far as the frame's aspect allows.
    """
    height, width = clips.shape[-2:]
    short = min(height, width)
    rows, columns = (max(1, round(PATCHES * side / short)) for side in (height, width))
    squares = [
        (_covered(row, rows, height, short), _covered(column, columns, width, short))
        for row in range(rows)
        for column in range(columns)
    ]
    whole = pooled(encode(encoder, clips))
    at_once = max(1, COVERED_AT_ONCE // len(clips))
    changes = []
    for first in range(0, len(squares), at_once):
        some = squares[first : first + at_once]
        covered = clips.repeat(len(some), 1, 1, 1, 1)
        for part, (vertical, horizontal) in zip(covered.chunk(len(some)), some, strict=True):
            part[..., vertical, horizontal] = GREY
        found = pooled(encode(encoder, covered)).reshape(len(some), len(clips), -1)
        changes.append(1 - functional.cosine_similarity(found, whole[None], dim=2))
    return torch.cat(changes).T.reshape(len(clips), rows, columns)


def _covered(number: int, count: int, side: int, short: int) -> slice:
    """The pixels along one side that the square at place `number` of `count` covers."""
    centre, reach = (number + 0.5) * side / count, short / PATCHES
    return slice(max(0, round(centre - reach)), min(side, round(centre + reach)))
