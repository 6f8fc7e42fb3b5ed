"""The same numbers in another order, or by other operations, where the usual one is slow on CPUs."""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCKS_BEFORE, BLOCKS_AFTER = 1, 2


def pixels_in_blocks(clip: Tensor, dtype: torch.dtype) -> Tensor:
    """Blocks of 2·2·2 pixels as channels, for a convolution of 7·7·7 pixels and stride 2 with SAME padding.

    `conv3d(pixels_in_blocks(x), weight_in_blocks(w))` is `conv3d(pad(x, [2, 3] * 3), w, stride=2)`. Of (B, C, T, H, W),
    the last three even: (B, 8C, T/2 + 3, H/2 + 3, W/2 + 3), channels last in memory; one block of zeros before, two
    after.
    """
    batch_size, channels, *sizes = clip.shape
    frames, height, width = (size // 2 for size in sizes)
    padded = [size + BLOCKS_BEFORE + BLOCKS_AFTER for size in (frames, height, width)]
    blocks = torch.zeros(batch_size, *padded, 2, 2, 2 * channels, dtype=dtype, device=clip.device)
    # Channels go last before the blocks are formed: neighbours along W then lie side by side, and are copied together.
    pixels = clip.to(dtype).permute(0, 2, 3, 4, 1).reshape(batch_size, frames, 2, height, 2, width, 2 * channels)
    inside = (slice(BLOCKS_BEFORE, -BLOCKS_AFTER),) * 3
    blocks[:, *inside] = pixels.permute(0, 1, 3, 5, 2, 4, 6)
    return blocks.flatten(4).movedim(-1, 1)


def weight_in_blocks(weight: Tensor) -> Tensor:
    """The weight (out, C, 7, 7, 7) for `pixels_in_blocks`: (out, 8C, 4, 4, 4), the eighth pixel of each axis zero."""
    num_out, channels = weight.shape[:2]
    parts = pad(weight, [0, 1] * 3).view(num_out, channels, 4, 2, 4, 2, 4, 2)
    return parts.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(num_out, 4, 4, 4, 8 * channels).movedim(-1, 1)


def largest_neighbour(x: Tensor) -> Tensor:
    """`max_pool3d(x, 3, stride=1, padding=1)` of (B, C, T, H, W), axis by axis; for passes without gradient."""
    for dim in (4, 3, 2):
        size = x.shape[dim]
        if size == 1:
            continue
        largest = torch.empty_like(x)
        before, after = x.narrow(dim, 0, size - 1), x.narrow(dim, 1, size - 1)
        torch.maximum(before, after, out=largest.narrow(dim, 0, size - 1))
        largest.select(dim, size - 1).copy_(x.select(dim, size - 1))
        all_but_first = largest.narrow(dim, 1, size - 1)
        torch.maximum(all_but_first, before, out=all_but_first)
        x = largest
    return x
