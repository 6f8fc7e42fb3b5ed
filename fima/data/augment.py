"""Colour augmentation: drawn per clip where the clip is sampled, applied to whole batches on the device."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fima.config import DataConfig
from fima.data.views import ClipViews
from fima.method.inputs import VIEWS, ClipInputs, View
from fima.torch_tools.precision import without_autocast

MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)
SCALE = (1 / torch.tensor(STD)).tolist()
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
JITTER_STRENGTH = 0.4
HUE_STRENGTH = 0.1
MIN_SIGMA_PX = 0.1
MAX_SIGMA_PX = 2.0
TINY_CHROMA = 1e-12
TINY_WEIGHT = 1e-20
CPU_FRAMES_AT_ONCE = 8
"""Frames of one clip that a CPU works on at a time: all operations on them find them in the cache."""

GRAYSCALE, JITTER, ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE, SIGMA = 0, 1, slice(2, 6), 6, 7, 8, 9, 10
NUM_DRAWS = 11


def draw_colour(generator: np.random.Generator, num_tensors: int, data: DataConfig) -> Tensor:
    """Draws the colour augmentation of `num_tensors` clips, by the probabilities of the settings (docs/method.md).

    The generator advances alike whatever these are. Returns float32 (num_tensors, 11), one row a clip: grayscale (0 or
    1); jitter (0 or 1); the order of the four jitter operations (a permutation of 0 brightness, 1 contrast, 2
    saturation, 3 hue); their factors; the blur's sigma in pixels, 0 for no blur.
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


Change = Callable[[Tensor, Tensor], Tensor]
"""Changes clips (n, 3, T, H, W) in place, given a value for each of them, (n,)."""
Operation = tuple[Change, list[int], Tensor]
"""A change, the places of n clips of a batch in rising order, and their values, (n,), on the CPU."""


def apply_colour(x: Tensor, draws: Tensor) -> Tensor:
    """Grayscale, colour jitter, blur and normalisation of clips by their draws: float32 (B, 3, T, H, W).

    The operations are torchvision's (contrast takes each frame's own mean), the same for all frames of a clip. Clips
    are in [0, 1] and left as they are. The rows of `draw_colour`, (B, 11), are on the CPU, where they cost no
    synchronisation.
    """
    coloured = x.to(torch.float32, copy=True)
    for clips in _parts(len(x), x.device):
        operations = _operations(draws[clips])
        for frames in _frames_at_once(coloured[clips]):
            _colour(frames, operations)
    return coloured


def _parts(num_clips: int, device: torch.device) -> list[slice]:
    """What is augmented at a time: single clips on a CPU, for its caches; all elsewhere, to start few kernels."""
    size = 1 if device.type == "cpu" else max(1, num_clips)
    return [slice(start, start + size) for start in range(0, num_clips, size)]


def _frames_at_once(x: Tensor) -> tuple[Tensor, ...]:
    """Parts of clips (B, 3, T, H, W) along T: a few frames each on a CPU, everything elsewhere."""
    return torch.split(x, CPU_FRAMES_AT_ONCE if x.device.type == "cpu" else max(1, x.shape[2]), dim=2)


def _colour(x: Tensor, operations: list[Operation]) -> None:
    """`apply_colour` in place, on frames of clips, (B, 3, T, H, W)."""
    # The sums over frames and the blur's products lose too many bits in half precision.
    with without_autocast(x.device):
        for change, places, values_on_cpu in operations:
            values = values_on_cpu.to(x.device, non_blocking=True)
            if len(places) == len(x):
                change(x, values)
            else:
                clips = torch.tensor(places).to(x.device, non_blocking=True)
                x.index_copy_(0, clips, change(x.index_select(0, clips), values))
        # Channel by channel, with numbers instead of broadcast tensors: on a CPU in a third of the time.
        for channel, shift, scale in zip(x.unbind(1), _shifts(x.device), SCALE, strict=True):
            torch.add(shift, channel, alpha=scale, out=channel)


@functools.lru_cache(maxsize=8)
def _shifts(device: torch.device) -> tuple[Tensor, ...]:
    """What is added to the scaled pixels of each channel, as numbers on a device: brought there once."""
    mean, std = (torch.tensor(values, device=device) for values in (MEAN, STD))
    return (-mean / std).unbind()


def _operations(draws: Tensor) -> list[Operation]:
    """What the draws (B, 11) ask for, in the order in which it is done."""
    rows = draws.tolist()
    jitter = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    wanted: list[tuple[Change, list[int], int]] = [
        (to_grayscale, [clip for clip, row in enumerate(rows) if row[GRAYSCALE]], GRAYSCALE)
    ]
    for position in range(ORDER.start, ORDER.stop):
        for number, change in enumerate(jitter):
            clips = [clip for clip, row in enumerate(rows) if row[JITTER] and row[position] == number]
            wanted.append((change, clips, BRIGHTNESS + number))
    wanted.append((gaussian_blur, [clip for clip, row in enumerate(rows) if row[SIGMA]], SIGMA))
    return [
        (change, clips, torch.tensor([rows[clip][column] for clip in clips]))
        for change, clips, column in wanted
        if clips
    ]


def luma(x: Tensor) -> Tensor:
    """Luma of ITU-R 601 as torchvision computes it: (B, 3, T, H, W) -> (B, 1, T, H, W)."""
    red, green, blue = GRAY_WEIGHTS
    return (x[:, 0:1] * red).add_(x[:, 1:2], alpha=green).add_(x[:, 2:3], alpha=blue)


def to_grayscale(x: Tensor, _: Tensor) -> Tensor:
    """The luma in all three channels of (B, 3, T, H, W), in place; the value per clip plays no part."""
    return x.copy_(luma(x).expand_as(x))


def _per_clip(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1), to go with clips."""
    return values.view(-1, 1, 1, 1, 1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """clamp(x · factor), in place: (B, 3, T, H, W) in [0, 1], factors (B,)."""
    return x.mul_(_per_clip(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blends each frame with its mean luma: clamp(factor · x + (1 - factor) · mean); as brightness otherwise."""
    factor = _per_clip(factor)
    # The mean of the luma is the luma of the means.
    mean = luma(x.mean(dim=(3, 4), keepdim=True))
    return torch.addcmul(mean * (1 - factor), x, factor, out=x).clamp_(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blends each pixel with its luma: clamp(factor · x + (1 - factor) · gray); as brightness otherwise."""
    factor = _per_clip(factor)
    return torch.addcmul(luma(x).mul_(1 - factor), x, factor, out=x).clamp_(0, 1)


def adjust_hue(x: Tensor, factor: Tensor) -> Tensor:
    """Turns the hue by `factor` of the full circle; as brightness otherwise, factors in [-1/6, 1/6].

    The hue is measured from red in sextants, branch-free: with p, n the larger and the smaller of green and blue, and
    C the range of the three channels, |hue| = 1 + (p - red + max(n - red, 0)) / C, negative where green < blue. A
    channel at the circular distance d from the turned hue is then min + C · clamp(2 - d, 0, 1), as in HSV to RGB.
    """
    red, green, blue = x.unbind(1)
    larger, smaller = torch.maximum(green, blue), torch.minimum(green, blue)
    lowest = torch.minimum(red, smaller)
    chroma = torch.maximum(red, larger).sub_(lowest)
    hue = smaller.sub_(red).clamp_min_(0).add_(larger).sub_(red).div_(chroma.clamp_min(TINY_CHROMA)).add_(1)
    hue = hue.copysign_(torch.sub(green, blue, out=larger)).add_(factor.view(-1, 1, 1, 1) * 6)
    # Red's distance needs no folding at 3: what lies beyond has weight 0 either way.
    torch.addcmul(lowest, chroma, torch.abs(hue, out=larger).neg_().add_(2).clamp_(0, 1), out=red)
    torch.addcmul(lowest, chroma, torch.sub(hue, 2, out=larger).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1), out=green)
    torch.addcmul(lowest, chroma, hue.add_(2).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1), out=blue)
    return x


def blur_kernel_size(size: int) -> int:
    """Side of the blur's kernel for clips of `size` pixels: an odd number, about a tenth of the side."""
    return int(0.1 * size) // 2 * 2 + 1


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each clip with its own sigma, edges reflected, as torchvision's `gaussian_blur`.

    Changes x, (B, 3, T, H, W), in place; sigma (B,) is in pixels. The kernel's side is `blur_kernel_size(W)`.
    """
    radius = blur_kernel_size(x.shape[-1]) // 2
    if radius == 0:
        return x
    height, width = x.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernels = torch.softmax(-0.5 * (offsets / sigma.view(-1, 1)) ** 2, dim=1)
    # Weights that change no pixel, but that a CPU may multiply twenty times slower.
    kernels = torch.where(kernels < TINY_WEIGHT, 0, kernels)
    # A banded matrix per clip and axis, edges folded in: several times faster than a depthwise convolution on CPUs.
    rows = torch.bmm(x.flatten(1, 3), _blur_matrices(kernels, width).transpose(1, 2)).view(-1, height, width)
    columns = _blur_matrices(kernels, height)[:, None].expand(-1, len(rows) // len(x), -1, -1).flatten(0, 1)
    return x.copy_(torch.bmm(columns, rows).view(x.shape))


def _blur_matrices(kernels: Tensor, size: int) -> Tensor:
    """Matrices that convolve a line of `size` pixels, edges reflected: kernels (B, k) -> (B, size, size)."""
    num_clips, kernel_size = kernels.shape
    matrices = torch.zeros(num_clips, size, size, device=kernels.device, dtype=kernels.dtype)
    shape = (num_clips, size, kernel_size)
    sources = _blur_sources(kernel_size, size, kernels.device)
    return matrices.scatter_add_(2, sources.expand(shape), kernels[:, None].expand(shape))


@functools.lru_cache(maxsize=8)
def _blur_sources(kernel_size: int, size: int, device: torch.device) -> Tensor:
    """The pixels that a kernel meets at each of `size` pixels, edges reflected, (size, kernel_size)."""
    sources = torch.arange(size, device=device)[:, None] + torch.arange(kernel_size, device=device) - kernel_size // 2
    return (size - 1) - ((size - 1) - sources.abs()).abs()


def make_inputs(views: ClipViews, draws: Tensor, names: Sequence[View] = VIEWS, *, local_stride: int = 1) -> ClipInputs:
    """What the networks see of one clip: differences of the cropped pixels, then colour, each tensor on its own.

    Views are a batch on the device, uint8 (B, 3, F, S, S), the draws (B, 4, 11): for `full`, its difference, the
    `early` and the `late` difference. Made are `full` and what is named; the last two of every `local_stride`-th frame.
    Returns normalised float32 tensors (B, 3, F, S, S).
    """
    sources = ((views.full, 1), (views.full, 1), (views.early, local_stride), (views.late, local_stride))
    wanted = [(row, *sources[row]) for row, name in enumerate(VIEWS) if name in ("full", *names)]
    inputs = {row: torch.empty(view[:, :, ::stride].shape, device=view.device) for row, view, stride in wanted}
    for clips in _parts(len(views.full), views.full.device):
        for row, view, stride in wanted:
            operations = _operations(draws[clips, row])
            now, before = (frames[:, :, ::stride] for frames in (view[clips], view[clips].roll(1, dims=2)))
            for pixels, *frames in zip(*map(_frames_at_once, (inputs[row][clips], now, before)), strict=True):
                if row == 0:
                    torch.div(frames[0], 255, out=pixels)
                else:
                    # `frame_difference`, of pixels that are not divided by 255 yet.
                    pixels.copy_(frames[0]).sub_(frames[1]).add_(255).div_(510)
                _colour(pixels, operations)
    return ClipInputs(views={VIEWS[row]: view for row, view in inputs.items()}, box=views.box)
