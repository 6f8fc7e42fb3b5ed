"""3x3 convolutions with a quarter of the multiplications, in float32 on CPUs (Winograd, 1980; Lavin & Gray, 2016).

F(4x4, 3x3): 6x6 pixels of the input and the 3x3 weights are brought to 36 positions each; there they are multiplied one
by one and summed over channels and frames, which makes 36 matrix products, and 36 sums give 4x4 pixels of the output.
What is brought to the positions are polynomials, evaluated at the points 0, ±√½, ±√2 and infinity, which round half as
much as the usual 0, ±1, ±2: about twice as much as a convolution by oneDNN (benchmarks/winograd.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4
"""Side of what a tile gives, in pixels."""
WINDOW = TILE + 2
"""Side of what goes into it."""
POSITIONS = WINDOW**2
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
BLOCK_BYTES = 4 << 20
"""Of the numbers at all positions that are formed at a time: they are to stay in the cache until they are used."""


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Matrices for input (36, 36), weight (36, 9) and output (16, 36): those of Toom and Cook on either axis."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    inputs = points.new_zeros(WINDOW, WINDOW)
    weights = points.new_zeros(WINDOW, 3)
    outputs = points.new_zeros(TILE, WINDOW)
    for row, point in enumerate(points):
        others = torch.cat([points[:row], points[row + 1 :]])
        inputs[row, :-1] = _polynomial(others)
        weights[row] = point ** torch.arange(3) / (point - others).prod()
        outputs[:, row] = point ** torch.arange(TILE)
    inputs[-1] = _polynomial(points)
    weights[-1, -1] = outputs[-1, -1] = 1
    of_input, of_weight, of_output = (torch.kron(matrix, matrix).float() for matrix in (inputs, weights, outputs))
    return of_input, of_weight, of_output


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the polynomial with these roots, the constant first."""
    coefficients = roots.new_ones(1)
    for root in roots:
        times_x = torch.cat([roots.new_zeros(1), coefficients])
        times_x[:-1] -= root * coefficients
        coefficients = times_x
    return coefficients


INPUT, WEIGHT, OUTPUT = _transforms()


def prepare(weight: Tensor) -> Tensor:
    """The weight (out, in, kt, 3, 3) as the products take it: (kt, 36, in, out)."""
    num_out, num_in, frames = weight.shape[:3]
    taps = weight.permute(2, 3, 4, 1, 0).reshape(frames, 9, num_in * num_out)
    return (WEIGHT @ taps).view(frames, POSITIONS, num_in, num_out)


def num_tiles(shape: Sequence[int]) -> int:
    """Tiles of clips (B, C, T, H, W)."""
    batch_size, _, num_frames, height, width = shape
    return batch_size * num_frames * -(-height // TILE) * -(-width // TILE)


def convolve(x: Tensor, weight: Tensor, prepared: Tensor | None = None) -> Tensor:
    """`conv3d(x, weight, padding=(kt // 2, 1, 1))`, differentiable.

    Args:
        x: (B, in, T, H, W), float32 on the CPU.
        weight: (out, in, kt, 3, 3), kt odd.
        prepared: `prepare(weight)`, where it is at hand.

    Returns:
        (B, out, T, H, W), channels last in memory.
    """
    result: Tensor = _Convolution.apply(x, weight, prepared)
    return result


class _Convolution(torch.autograd.Function):
    """`convolve`, for autograd; its gradients have no gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, prepared: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        return _convolved(x, prepare(weight) if prepared is None else prepared)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        return *_gradients(gradient, x, weight, ctx.needs_input_grad), None


@dataclass(frozen=True)
class _Blocks:
    """How clips of a size are cut into tiles, and how many are taken at a time.

    Args:
        height: of the clips.
        width: of the clips.
        clips: how many at a time.
        frames: how many at a time, where their sums are formed.
    """

    height: int
    width: int
    clips: int
    frames: int

    @classmethod
    def of(cls, clips: tuple[int, ...], num_in: int, num_out: int) -> "_Blocks":
        """Those for (B, T, H, W) so that the numbers formed stay in the cache, where a frame's do."""
        batch_size, num_frames, height, width = clips
        frame_bytes = POSITIONS * -(-height // TILE) * -(-width // TILE) * 4
        at_once = min(BLOCK_BYTES // (frame_bytes * num_in * num_frames), BLOCK_BYTES // (frame_bytes * num_out))
        together = min(max(at_once, 1), batch_size)
        frames = min(max(BLOCK_BYTES // (frame_bytes * num_out * together), 1), num_frames)
        return cls(height, width, together, frames)

    @property
    def down(self) -> int:
        """Tiles below each other."""
        return -(-self.height // TILE)

    @property
    def across(self) -> int:
        """Tiles beside each other."""
        return -(-self.width // TILE)

    def inputs(self, clips: Tensor, around: int) -> Tensor:
        """Clips (n, T, H, W, C) at all positions, (36, around + T + around, n * tiles, C), with frames of zeros."""
        num_clips, num_frames, _, _, channels = clips.shape
        sizes = (num_frames + 2 * around, TILE * self.down + 2, TILE * self.across + 2)
        padded = clips.new_zeros(num_clips, *sizes, channels)
        padded[:, around : around + num_frames, 1 : self.height + 1, 1 : self.width + 1] = clips
        clip, frame, row, column, _ = padded.stride()
        tiles = padded.as_strided(
            (WINDOW, WINDOW, sizes[0], num_clips, self.down, self.across, channels),
            (row, column, frame, clip, TILE * row, TILE * column, 1),
        )
        return (INPUT @ tiles.reshape(POSITIONS, -1)).view(POSITIONS, sizes[0], -1, channels)

    def outputs(self, sums: Tensor, num_frames: int) -> Tensor:
        """Sums (36, F * n * tiles, C) as clips (n, F, H, W, C)."""
        tiles = OUTPUT @ sums.view(POSITIONS, -1)
        tiles = tiles.view(TILE, TILE, num_frames, -1, self.down, self.across, sums.shape[-1])
        pixels = tiles.permute(3, 2, 4, 0, 5, 1, 6).flatten(4, 5).flatten(2, 3)
        return pixels[:, :, : self.height, : self.width]

    def output_gradients(self, clips: Tensor, around: int) -> Tensor:
        """Gradients of clips (n, T, H, W, C) as those of the sums, (36, around + T + around, n * tiles, C)."""
        num_clips, num_frames, _, _, channels = clips.shape
        sizes = (num_frames + 2 * around, self.down, TILE, self.across, TILE, channels)
        tiles = clips.new_zeros(num_clips, *sizes)
        pixels = tiles.view(num_clips, sizes[0], TILE * self.down, TILE * self.across, channels)
        pixels[:, around : around + num_frames, : self.height, : self.width] = clips
        columns = tiles.permute(3, 5, 1, 0, 2, 4, 6).reshape(TILE * TILE, -1)
        return (OUTPUT.T @ columns).view(POSITIONS, sizes[0], -1, channels)

    def input_gradients(self, products: Tensor, num_frames: int) -> Tensor:
        """Gradients of what `inputs` gives, (36, T * n * tiles, C), as those of the clips, (n, T, H, W, C)."""
        channels = products.shape[-1]
        tiles = INPUT.T @ products.view(POSITIONS, -1)
        tiles = tiles.view(WINDOW, WINDOW, num_frames, -1, self.down, self.across, channels)
        # As (n, T, down, 6, across, 6, C): each shares its last two rows and columns with its neighbours.
        tiles = tiles.permute(3, 2, 4, 0, 5, 1, 6)
        num_clips = len(tiles)
        total = tiles.new_zeros(num_clips, num_frames, self.down + 1, TILE, self.across + 1, TILE, channels)
        total[:, :, :-1, :, :-1] = tiles[:, :, :, :TILE, :, :TILE]
        total[:, :, 1:, :2, :-1] += tiles[:, :, :, TILE:, :, :TILE]
        total[:, :, :-1, :, 1:, :2] += tiles[:, :, :, :TILE, :, TILE:]
        total[:, :, 1:, :2, 1:, :2] += tiles[:, :, :, TILE:, :, TILE:]
        pixels = total.view(num_clips, num_frames, TILE * (self.down + 1), TILE * (self.across + 1), channels)
        return pixels[:, :, 1 : self.height + 1, 1 : self.width + 1]


def _frame_by_frame(x: Tensor, taps: int) -> Tensor:
    """(B, C, T, H, W) as (B, T, H, W, C); frames that do not meet as clips of one."""
    pixels = x.permute(0, 2, 3, 4, 1)
    return pixels if taps > 1 else pixels.flatten(0, 1).unsqueeze(1)


def _parts(tensors: Sequence[Tensor], size: int) -> list[tuple[Tensor, ...]]:
    return [torch.split(tensor, size) for tensor in tensors]


def _convolved(x: Tensor, prepared: Tensor) -> Tensor:
    taps, _, num_in, num_out = prepared.shape
    pixels, around = _frame_by_frame(x, taps), taps // 2
    blocks = _Blocks.of(pixels.shape[:4], num_in, num_out)
    result = x.new_empty(*pixels.shape[:4], num_out)
    for some, into in zip(*_parts((pixels, result), blocks.clips), strict=True):
        inputs = blocks.inputs(some, around)
        for start in range(0, pixels.shape[1], blocks.frames):
            goal = into[:, start : start + blocks.frames]
            num_frames = goal.shape[1]
            here = (inputs[:, start + tap : start + tap + num_frames].flatten(1, 2) for tap in range(taps))
            sums = torch.bmm(next(here), prepared[0])
            for tap, others in enumerate(here, start=1):
                sums.baddbmm_(others, prepared[tap])
            goal.copy_(blocks.outputs(sums, num_frames))
    return result.view(x.shape[0], *x.shape[2:], num_out).permute(0, 4, 1, 2, 3)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight, where they are needed: the forward steps transposed, in the other order."""
    num_out, num_in, taps = weight.shape[:3]
    pixels, gradients, around = _frame_by_frame(x, taps), _frame_by_frame(gradient, taps), taps // 2
    num_frames = pixels.shape[1]
    blocks = _Blocks.of(pixels.shape[:4], num_in, num_out)
    of_pixels = torch.empty_like(pixels)
    of_prepared = x.new_zeros(taps, POSITIONS, num_in, num_out)
    transposed = prepare(weight.transpose(0, 1))
    for some, of_output, of_input in zip(*_parts((pixels, gradients, of_pixels), blocks.clips), strict=True):
        of_sums = blocks.output_gradients(of_output, around)
        if needed[0]:
            shifts = (of_sums[:, tap : tap + num_frames].flatten(1, 2) for tap in reversed(range(taps)))
            products = torch.bmm(next(shifts), transposed[0])
            for tap, others in enumerate(shifts, start=1):
                products.baddbmm_(others, transposed[tap])
            of_input.copy_(blocks.input_gradients(products, num_frames))
        if needed[1]:
            inputs = blocks.inputs(some, around)
            inside = of_sums[:, around : around + num_frames].flatten(1, 2)
            for tap in range(taps):
                here = inputs[:, tap : tap + num_frames].flatten(1, 2)
                of_prepared[tap].baddbmm_(here.transpose(1, 2), inside)
    of_x = of_weight = None
    if needed[0]:
        of_x = of_pixels.view(x.shape[0], *x.shape[2:], num_in).permute(0, 4, 1, 2, 3)
    if needed[1]:
        spread = (WEIGHT.T @ of_prepared.view(taps, POSITIONS, -1)).view(taps, 3, 3, num_in, num_out)
        of_weight = torch.empty_like(weight).copy_(spread.permute(4, 3, 0, 1, 2))
    return of_x, of_weight
