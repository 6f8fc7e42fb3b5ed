"""Winograd's method against PyTorch's convolution, layer by layer: time, and rounding error, in float32 on the CPU.

Layers of I3D and R(2+1)D-18 at 16 frames of 112 px. "keys" is a pass without gradient whose transformed weights are
kept, as in the key passes; "query" is a pass with gradient, forward and backward. Times are medians of calls in turns.
Errors are against float64, root mean square relative to that of the result: of the result, and of the gradients of
input and weight. Layers that are left to PyTorch's convolution are marked. `--networks` compares whole passes instead.

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/winograd.py

shows a processor without AVX512.
"""

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import conv3d

from fima.backbones import convolution, winograd
from fima.backbones.convolution import LEAST_CHANNELS, LEAST_TILES, LEAST_TILES_KEPT, weights_transformed_once
from fima.backbones.registry import build_backbone
from fima.method.momentum import frozen_copy
from fima.torch_tools.allocator import keep_freed_memory
from step import seconds

LAYERS: dict[str, tuple[tuple[int, int, int, int, int], ...]] = {
    "I3D": (
        (64, 192, 3, 8, 28),
        (128, 192, 3, 8, 14),
        (96, 128, 3, 8, 14),
        (32, 96, 3, 8, 14),
        (160, 320, 3, 4, 7),
        (112, 224, 3, 4, 7),
        (192, 384, 3, 2, 4),
    ),
    "R(2+1)D-18": ((64, 144, 1, 16, 56), (128, 288, 1, 8, 28), (256, 576, 1, 4, 14), (512, 1152, 1, 2, 7)),
}
"""Channels of input and output, frames of the kernel, frames and side of the clip."""


def relative_errors(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str:
    """Root mean squares of the errors, relative to those of what is expected."""
    errors = ((a - b).pow(2).mean().sqrt() / b.pow(2).mean().sqrt() for a, b in zip(found, expected, strict=True))
    return " ".join(f"{error:.1e}" for error in errors)


def measure(layer: tuple[int, int, int, int, int], batch_size: int, rounds: int) -> str:
    """Ratios of time and errors of one layer, as a line of a table."""
    num_in, num_out, taps, frames, side = layer
    padding = (taps // 2, 1, 1)
    last = torch.channels_last_3d
    # What comes from a ReLU: its mean is not zero, as in the networks.
    clip = torch.randn(batch_size, num_in, frames, side, side).relu().contiguous(memory_format=last).requires_grad_()
    weight = torch.randn(num_out, num_in, taps, 3, 3) / (num_in * taps * 9) ** 0.5
    weight = weight.contiguous(memory_format=last).requires_grad_()
    gradient = torch.randn(batch_size, num_out, frames, side, side).contiguous(memory_format=last)

    def both_ways(convolve: Callable[[Tensor, Tensor], Tensor], kind: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [tensor.detach().to(kind).requires_grad_() for tensor in (clip, weight)]
        result = convolve(*inputs)
        return result.detach(), *torch.autograd.grad(result, inputs, gradient.to(kind))

    def theirs(x: Tensor, w: Tensor) -> Tensor:
        return conv3d(x, w, padding=padding)

    exact = both_ways(theirs, torch.float64)
    errors = [relative_errors(both_ways(way, torch.float32), exact) for way in (theirs, winograd.convolve)]
    with torch.no_grad():
        kept = winograd.prepare(weight)

    def without_gradient(way: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(way)

    pairs = (
        (
            without_gradient(lambda: winograd.convolve(clip, weight, kept)),
            without_gradient(lambda: theirs(clip, weight)),
        ),
        (lambda: both_ways(winograd.convolve, torch.float32), lambda: both_ways(theirs, torch.float32)),
    )
    ratios = []
    for ours, other in pairs:
        times = [(seconds(ours), seconds(other)) for _ in range(rounds + 2)][2:]
        ratios.append(statistics.median(a for a, _ in times) / statistics.median(b for _, b in times))
    tiles = winograd.num_tiles(clip.shape)
    wide = min(num_in, num_out) >= LEAST_CHANNELS
    marks = [" " if wide and tiles >= least else "-" for least in (LEAST_TILES_KEPT, LEAST_TILES)]
    shape = f"{num_in:4d} -> {num_out:4d}, {taps}x3x3, {frames:2d} x {side}x{side}"
    return f"{shape:32s} {ratios[0]:5.2f}{marks[0]} {ratios[1]:5.2f}{marks[1]}   {errors[0]}   {errors[1]}"


def measure_network(backbone: str, batch_size: int, rounds: int) -> str:
    """Ratios of time of whole passes with and without Winograd's method, as a line of a table."""
    network = build_backbone(backbone).train().to(memory_format=torch.channels_last_3d)
    keys = frozen_copy(network)
    clips = torch.randn(batch_size, 3, 16, 112, 112)

    def key_pass() -> None:
        with torch.no_grad():
            keys(clips)

    def query_pass() -> None:
        torch.autograd.backward(network(clips).mean())
        network.zero_grad(set_to_none=True)

    ratios = []
    for one_pass in (key_pass, query_pass):
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds + 1):
            for allowed, taken in times.items():
                with weights_transformed_once(keys), pytorchs_convolutions(unless=allowed):
                    one_pass()  # warms up, and transforms the weights that are kept
                    taken.append(seconds(one_pass))
        ratios.append(statistics.median(times[True][1:]) / statistics.median(times[False][1:]))
    return f"{backbone:32s} {ratios[0]:5.2f}  {ratios[1]:5.2f}"


@contextlib.contextmanager
def pytorchs_convolutions(*, unless: bool) -> Iterator[None]:
    """No layer is large enough for Winograd's method inside, unless it is allowed."""
    before = convolution.LEAST_TILES, convolution.LEAST_TILES_KEPT
    if not unless:
        convolution.LEAST_TILES = convolution.LEAST_TILES_KEPT = sys.maxsize
    try:
        yield
    finally:
        convolution.LEAST_TILES, convolution.LEAST_TILES_KEPT = before


def main() -> None:
    """Print a line for every layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="default: as many as PyTorch takes")
    parser.add_argument("--networks", nargs="+", default=[], metavar="BACKBONE", help="compare passes of these instead")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    if arguments.networks:
        print(f"{'time beside PyTorch convolutions':33s} keys  query")
        for backbone in arguments.networks:
            print(measure_network(backbone, arguments.batch_size, arguments.rounds), flush=True)
        return
    print("time relative to PyTorch's (- where PyTorch's is taken); errors of PyTorch's, and of Winograd's")
    for network, layers in LAYERS.items():
        print(f"{network:33s} keys  query")
        for layer in layers:
            print(measure(layer, arguments.batch_size, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
