"""What a video codec does to pixels, on any device."""

import math

import torch
from torch import Tensor

BLOCK = 8
DEAD_ZONE = 0.25
"""Coefficients below three quarters of a step become 0."""
FIRST_FRAME = 0.5
"""The step of the first frame, relative to that of the others."""


def compress(video: Tensor, quantiser: Tensor) -> Tensor:
    """Return videos (B, C, T, S, S) as a codec without motion compensation would store them.

    Each frame is stored by what the last one lacks: the difference to the last decoded frame is quantised in blocks of
    8 x 8 by its cosine transform, high frequencies more coarsely, with a dead zone. So regions that hardly change stay
    as they are, as in real recordings. Values are about 0..1, S a multiple of 8; the quantiser (B,) is the step of the
    lowest frequency, times 0.4, of which 0 hardly changes anything.
    """
    num_videos, side = len(video), video.shape[-1]
    basis = _cosines(video.device)
    frequency = torch.arange(BLOCK, device=video.device)
    weight = 0.4 + 0.1 * (frequency[:, None] + frequency)
    steps = quantiser.view(-1, 1, 1, 1, 1, 1) * weight[:, None, :] + 1e-4  # (B, 1, 1, 8, 1, 8)
    decoded = torch.zeros_like(video[:, :, 0])
    frames = []
    for place, frame in enumerate(video.unbind(dim=2)):
        step = steps if place else FIRST_FRAME * steps
        blocks = (frame - decoded).reshape(num_videos, -1, side // BLOCK, BLOCK, side // BLOCK, BLOCK)
        coefficients = torch.einsum("ui,bcyixj,vj->bcyuxv", basis, blocks, basis) / step
        kept = torch.trunc(coefficients + DEAD_ZONE * coefficients.sign()) * step
        change = torch.einsum("ui,bcyuxv,vj->bcyixj", basis, kept, basis)
        decoded = decoded + change.flatten(4, 5).flatten(2, 3)
        frames.append(decoded)
    return torch.stack(frames, dim=2)


def _cosines(device: torch.device) -> Tensor:
    """Orthonormal cosine transform, (frequency, pixel)."""
    pixel = torch.arange(BLOCK, device=device)
    basis = 0.5 * torch.cos(math.pi * (2 * pixel + 1) * pixel[:, None] / (2 * BLOCK))
    basis[0] *= math.sqrt(0.5)
    return basis
