"""What the diagnosis shows to an encoder: clips without their order, motion, foreground or background."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fima.evaluate.features import normalised

GREY = 128
HASH_FACTOR = 2654435761
MOVING = 12
"""Mean absolute distance to the median, over the colours, that a pixel of the foreground and its neighbours exceed."""
INPUTS = (
    "as_is",
    "one_frame",
    "shuffled",
    "reversed",
    "median_subtracted",
    "foreground",
    "background",
    "half_speed",
    "double_speed",
    "swapped",
)


def shown_inputs(clips: Tensor, backgrounds: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield each of `INPUTS` by name, as encoders take it: float32 (B, 3, F, S, S), which the next one overwrites.

    New memory for each would cost several times what its content does. Frames are normalised once, before they are put
    into another order or in front of another background. Clips are uint8 (B, 3, F, S, S), and the backgrounds of
    `swapped` uint8 (B, 3, S, S).
    """
    num_frames = clips.shape[2]
    shown = torch.empty(clips.shape, device=clips.device)
    pixels = _normalised(clips)
    median = median_frame(clips)
    moving = _moving(clips, median).float()
    still, behind = _normalised(median), _normalised(backgrounds[:, :, None])
    grey = _normalised(torch.full_like(median[:1, :, :, :1, :1], GREY))
    frames = torch.arange(num_frames, device=clips.device)
    order = torch.randperm(num_frames, generator=torch.Generator().manual_seed(0)).to(clips.device)

    def ordered(places: Tensor) -> Tensor:
        return torch.index_select(pixels, 2, places, out=shown)

    def before(background: Tensor) -> Tensor:
        # As `torch.where`, in half the time.
        return torch.mul(pixels, moving, out=shown).addcmul_(background, 1 - moving)

    yield "as_is", shown.copy_(pixels)
    yield "one_frame", shown.copy_(pixels[:, :, num_frames // 2, None])
    yield "shuffled", ordered(order)
    yield "reversed", ordered(frames.flip(0))
    # Half the distance to the median, around grey, in whole numbers.
    half_distance = clips.short().sub_(median).add_(2 * GREY).bitwise_right_shift_(1)
    yield "median_subtracted", normalised(shown.copy_(half_distance).div_(255))
    yield "foreground", before(grey)
    yield "background", shown.copy_(still)
    yield "half_speed", ordered(frames // 2)
    yield "double_speed", ordered(frames * 2 % num_frames)
    yield "swapped", before(behind)


def background_places(clips: Tensor, count: int) -> Tensor:
    """Return which of so many backgrounds each clip of `swapped` has, int64 (B,).

    It follows from the pixels of clips, uint8 (B, 3, F, S, S), so that neither batches nor processes change it.
    """
    # Multiplicative hashing: the sum alone says something of the picture, and so of its class.
    total = clips[:, :, 0].sum(dim=(1, 2, 3), dtype=torch.int64)
    return (total * HASH_FACTOR >> 16) % count


def median_frame(clips: Tensor) -> Tensor:
    """Return the median over time, the lower one of an even number, uint8 (B, 3, 1, S, S) of uint8 (B, 3, F, S, S).

    Sorting whole frames by exchanges takes a tenth of the time of `Tensor.median` over frames.
    """
    frames = list(clips.unbind(dim=2))
    for number in range(len(frames)):
        for place in range(number % 2, len(frames) - 1, 2):
            low, high = frames[place], frames[place + 1]
            frames[place], frames[place + 1] = torch.minimum(low, high), torch.maximum(low, high)
    return frames[(len(frames) - 1) // 2][:, :, None]


def _normalised(clips: Tensor) -> Tensor:
    return normalised(clips.float().div_(255))


def _moving(clips: Tensor, median: Tensor) -> Tensor:
    """Where the foreground is, without its rim, whose pixels are mixed with the background: bool (B, 1, F, S, S)."""
    red, green, blue = (torch.maximum(clips, median) - torch.minimum(clips, median)).short().unbind(dim=1)
    moving = red + green + blue > 3 * MOVING
    # All of 3 x 3 pixels: first of the three in a row, then of three rows.
    for dim in (-1, -2):
        inner, size = moving.clone(), moving.shape[dim] - 1
        inner.narrow(dim, 1, size).logical_and_(moving.narrow(dim, 0, size))
        inner.narrow(dim, 0, size).logical_and_(moving.narrow(dim, 1, size))
        moving = inner
    return moving[:, None]
