"""Colour augmentation: drawn per clip where the clip is sampled, applied to whole batches on the device."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fima.config import DataConfig
from fima.data.views import ClipViews
from fima.model.inputs import ClipInputs
from fima.motion import frame_difference

MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
JITTER_STRENGTH = 0.4
HUE_STRENGTH = 0.1
MIN_SIGMA_PX = 0.1
MAX_SIGMA_PX = 2.0
TINY_CHROMA = 1e-12
CPU_CLIPS_AT_ONCE = 1

GRAYSCALE, JITTER, ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE, SIGMA = 0, 1, slice(2, 6), 6, 7, 8, 9, 10
NUM_DRAWS = 11


def draw_colour(generator: np.random.Generator, num_tensors: int, data: DataConfig) -> Tensor:
    """Draws the colour augmentation of `num_tensors` clips (strengths: docs/method.md).

    Args:
        generator: source of the draws; it advances alike whatever the probabilities are.
        num_tensors: clips to draw for.
        data: probabilities of grayscale, jitter and blur.

    Returns:
        float32 (num_tensors, 11), one row a clip: grayscale (0 or 1); jitter (0 or 1); the order of the four jitter
        operations (a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue); their factors; the blur's sigma
        in pixels, 0 for no blur.
    """
    draws = np.zeros((num_tensors, NUM_DRAWS), dtype=np.float32)
    draws[:, GRAYSCALE] = generator.random(num_tensors) < data.grayscale
    draws[:, JITTER] = generator.random(num_tensors) < data.jitter
    draws[:, ORDER] = generator.random((num_tensors, 4)).argsort(axis=1)
    draws[:, BRIGHTNESS:HUE] = generator.uniform(1 - JITTER_STRENGTH, 1 + JITTER_STRENGTH, (num_tensors, 3))
    draws[:, HUE] = generator.uniform(-HUE_STRENGTH, HUE_STRENGTH, num_tensors)
    blurred = generator.random(num_tensors) < data.blur
    draws[:, SIGMA] = np.where(blurred, generator.uniform(MIN_SIGMA_PX, MAX_SIGMA_PX, num_tensors), 0)
    return torch.from_numpy(draws)


def apply_colour(x: Tensor, draws: Tensor) -> Tensor:
    """Grayscale, colour jitter, blur and normalisation of a batch of clips, each by its own draws.

    The operations are torchvision's (contrast takes each frame's own mean), the same for all frames of a clip.

    Args:
        x: clips in [0, 1], float (B, 3, T, H, W); left as it is.
        draws: rows of `draw_colour`, (B, 11); best on the CPU, where they cost no synchronisation.

    Returns:
        Normalised clips (B, 3, T, H, W).
    """
    coloured = torch.empty(x.shape, device=x.device)
    for rows in _portions(x):
        _colour(x[rows].float(), draws[rows].cpu(), out=coloured[rows])
    return coloured


def _portions(x: Tensor) -> list[slice]:
    """Rows of a batch to work on at a time: on a CPU so few that every operation finds them in its cache."""
    size = CPU_CLIPS_AT_ONCE if x.device.type == "cpu" else max(1, len(x))
    return [slice(start, start + size) for start in range(0, len(x), size)]


def _colour(x: Tensor, draws: Tensor, out: Tensor) -> None:
    """`apply_colour` into `out`: clips float32 (B, 3, T, H, W), draws (B, 11) on the CPU."""
    # The sums over frames and the blur's products lose too many bits in half precision.
    with torch.autocast(x.device.type, enabled=False):
        gray, jitter, blurred = draws[:, GRAYSCALE] > 0, draws[:, JITTER] > 0, draws[:, SIGMA] > 0
        x = _changed(x, gray, to_grayscale, draws[:, GRAYSCALE])
        if jitter.any():
            for operations in draws[:, ORDER].T:
                for operation in operations[jitter].unique().int().tolist():
                    chosen = jitter & (operations == operation)
                    # A gray clip has no hue to turn.
                    chosen = chosen & ~gray if operation == HUE - BRIGHTNESS else chosen
                    x = _changed(x, chosen, ADJUSTMENTS[operation], draws[:, BRIGHTNESS + operation])
        x = _changed(x, blurred, gaussian_blur, draws[:, SIGMA])
        mean, std = (torch.tensor(values, device=x.device).view(3, 1, 1, 1) for values in (MEAN, STD))
        torch.sub(x, mean, out=out).div_(std)


def _changed(x: Tensor, chosen: Tensor, operation: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> Tensor:
    """Clips of which the chosen ones are `operation(clips, their values)`; chosen and values are (B,), on the CPU."""
    if not chosen.any():
        return x
    values = values[chosen].to(x.device, non_blocking=True)
    if chosen.all():
        return operation(x, values)
    clips = chosen.nonzero()[:, 0].to(x.device, non_blocking=True)
    return x.index_copy(0, clips, operation(x.index_select(0, clips), values))


def luma(x: Tensor) -> Tensor:
    """Luma of ITU-R 601 as torchvision computes it: (B, 3, T, H, W) -> (B, 1, T, H, W)."""
    red, green, blue = GRAY_WEIGHTS
    return (x[:, 0:1] * red).add_(x[:, 1:2], alpha=green).add_(x[:, 2:3], alpha=blue)


def to_grayscale(x: Tensor, _: Tensor) -> Tensor:
    """The luma in all three channels: (B, 3, T, H, W), and a value per clip that plays no part."""
    return luma(x).expand(-1, 3, -1, -1, -1)


def _per_clip(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1), to go with clips."""
    return values.view(-1, 1, 1, 1, 1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """clamp(x · factor): (B, 3, T, H, W) in [0, 1], factors (B,)."""
    return (x * _per_clip(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blends each frame with its mean luma: clamp(factor · x + (1 - factor) · mean); shapes as in brightness."""
    factor = _per_clip(factor)
    mean = luma(x).mean(dim=(3, 4), keepdim=True)
    return torch.addcmul(mean * (1 - factor), x, factor).clamp_(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blends each pixel with its luma: clamp(factor · x + (1 - factor) · gray); shapes as in brightness."""
    factor = _per_clip(factor)
    return torch.addcmul(luma(x).mul_(1 - factor), x, factor).clamp_(0, 1)


def adjust_hue(x: Tensor, factor: Tensor) -> Tensor:
    """Turns the hue by `factor` of the full circle; shapes as in brightness, factors in [-1/6, 1/6].

    The hue is measured from red in sextants, branch-free: with p, n the larger and the smaller of green and blue, and
    C the range of the three channels, |hue| = 1 + (p - red + max(n - red, 0)) / C, negative where green < blue. A
    channel at the circular distance d from the turned hue is then min + C · clamp(2 - d, 0, 1), as in HSV to RGB.
    """
    red, green, blue = x.unbind(1)
    larger, smaller = torch.maximum(green, blue), torch.minimum(green, blue)
    lowest = torch.minimum(red, smaller)
    chroma = torch.maximum(red, larger).sub_(lowest)
    hue = smaller.sub_(red).clamp_min_(0).add_(larger).sub_(red).div_(chroma.clamp_min(TINY_CHROMA)).add_(1)
    hue = hue.copysign_(green - blue).add_(factor.view(-1, 1, 1, 1) * 6)
    turned = torch.empty_like(x)
    # Red's distance needs no folding at 3: what lies beyond has weight 0 either way.
    torch.addcmul(lowest, chroma, hue.abs().neg_().add_(2).clamp_(0, 1), out=turned[:, 0])
    torch.addcmul(lowest, chroma, (hue - 2).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1), out=turned[:, 1])
    torch.addcmul(lowest, chroma, hue.add_(2).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1), out=turned[:, 2])
    return turned


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""The jitter operations, in the order of their factors among the draws."""


def blur_kernel_size(size: int) -> int:
    """Side of the blur's kernel for clips of `size` pixels: an odd number, about a tenth of the side."""
    return int(0.1 * size) // 2 * 2 + 1


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each clip with its own sigma, edges reflected, as torchvision's `gaussian_blur`.

    Args:
        x: (B, 3, T, H, W).
        sigma: standard deviations in pixels, (B,).

    Returns:
        Blurred clips (B, 3, T, H, W); the kernel's side is `blur_kernel_size(W)`.
    """
    radius = blur_kernel_size(x.shape[-1]) // 2
    if radius == 0:
        return x
    height, width = x.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernels = torch.softmax(-0.5 * (offsets / sigma.view(-1, 1)) ** 2, dim=1)
    # A banded matrix per clip and axis, edges folded in: several times faster than a depthwise convolution on CPUs.
    rows = torch.bmm(x.flatten(1, 3), _blur_matrices(kernels, width).transpose(1, 2)).view(x.shape)
    return torch.matmul(_blur_matrices(kernels, height)[:, None, None], rows)


def _blur_matrices(kernels: Tensor, size: int) -> Tensor:
    """Matrices that convolve a line of `size` pixels, edges reflected: kernels (B, k) -> (B, size, size)."""
    num_clips, kernel_size = kernels.shape
    pixels = torch.arange(size, device=kernels.device)
    sources = pixels[:, None] + torch.arange(kernel_size, device=kernels.device) - kernel_size // 2
    sources = (size - 1) - ((size - 1) - sources.abs()).abs()
    matrices = torch.zeros(num_clips, size, size, device=kernels.device, dtype=kernels.dtype)
    shape = (num_clips, size, kernel_size)
    return matrices.scatter_add_(2, sources.expand(shape), kernels[:, None].expand(shape))


def make_inputs(views: ClipViews, draws: Tensor, *, full_difference: bool, frame_differences: bool) -> ClipInputs:
    """What the networks see of one clip: differences of the cropped pixels, then colour, each tensor on its own.

    Args:
        views: a batch of views on the device, uint8 (B, 3, F, S, S).
        draws: (B, 4, 11): for `full`, its difference, the `early` and the `late` difference.
        full_difference: whether the difference of `full` is wanted.
        frame_differences: whether the differences of `early` and `late` are wanted.

    Returns:
        Normalised float32 (B, 3, F, S, S) tensors; None for the differences that are not wanted.
    """
    numbers = [0, *([1] if full_difference else []), *([2, 3] if frame_differences else [])]
    outputs = {number: torch.empty(views.full.shape, device=views.full.device) for number in numbers}
    draws = draws.cpu()
    for rows in _portions(views.full):
        full = views.full[rows].float().div_(255)
        tensors = [full]
        if full_difference:
            tensors.append(frame_difference(full))
        if frame_differences:
            tensors += [frame_difference(view[rows].float().div_(255)) for view in (views.early, views.late)]
        for tensor, (number, output) in zip(tensors, outputs.items(), strict=True):
            _colour(tensor, draws[rows, number], out=output[rows])
    return ClipInputs(
        full=outputs[0],
        full_difference=outputs.get(1),
        early_difference=outputs.get(2),
        late_difference=outputs.get(3),
        box=views.box,
    )
