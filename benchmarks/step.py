"""What a training step costs, in units that do not depend on the machine.

u is one forward pass without gradient of the same backbone, in float32 and PyTorch's default memory format, on the same
batch, in training mode: torchvision's R(2+1)D-18 as it is, I3D as it is usually written (`textbook.py`), in a process
of its own in which nothing is set, PyTorch as it comes. All the rest keeps freed memory, as the `fima` command does;
`unit_kept` is what u then takes of itself. The floor is the encoder passes that the method cannot do without: two with
gradient and eight without, in the step's own precision and memory format. Everything is interleaved; figures are
medians. Memory is the highest resident set during the step, above the resident set before it.

`--compile` compares steps whose encoders are compiled with steps whose encoders are not.

`augmentation_share` of the step is printed too, and for float32 `matrix_u`: what the multiplications of the encoder
passes would take, as convolutions are defined, at the speed of a matrix product that fits the cache.
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fima.backbones.registry import build_backbone
from fima.benchmark.steps import random_batch
from fima.config import DataConfig, MethodConfig, ModelConfig, PretrainConfig, RunConfig
from fima.data.augment import make_inputs
from fima.method import losses
from fima.method.fima import FIMA
from fima.method.momentum import frozen_copy
from fima.torch_tools.allocator import keep_freed_memory
from fima.torch_tools.precision import autocast
from fima.train.pretrain import pretrain_step
from textbook import CROP_PX, FRAMES, PlainProcess, plain_forward

CASES: tuple[tuple[Literal["i3d", "r2plus1d_18"], Literal["fp32", "bf16"]], ...] = (
    ("i3d", "fp32"),
    ("i3d", "bf16"),
    ("r2plus1d_18", "fp32"),
    ("r2plus1d_18", "bf16"),
)
PRECISION_NAMES: dict[Literal["fp32", "bf16"], str] = {"fp32": "float32", "bf16": "bf16"}
QUEUE_SIZE = 2_240
KEY_PASSES, QUERY_PASSES = 8, 2
KINETICS_BATCH, KINETICS_CELLS, KINETICS_SLICES, KINETICS_QUEUE, DIM = 64, 49, 2, 31_360, 128
CELL_LOSS_CALLS = 4
CELL_LOSS_CASES = {"cell_loss_kinetics": KINETICS_BATCH, "cell_loss_kinetics_512": 512}
DENSE_AT_MOST = 64
"""Largest batch for which there is memory for the dense form."""
PRODUCT_SIZE = 1024
JSON_KEYS = ("step_u", "floor_u", "ratio_to_floor", "peak_mb", "ratio_to_dense", "ratio_to_eager")
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class StepCase:
    """One backbone in one precision: the functions that are timed."""

    unit: Callable[[], object]
    floor: Callable[[], object]
    step: Callable[[], object]
    augment: Callable[[], object]
    multiplications: int
    """Of one forward pass of the encoder."""
    encoders: tuple[nn.Module, nn.Module]
    """Those of the step: query, key."""


def step_case(backbone: str, precision: Literal["fp32", "bf16"], batch_size: int) -> StepCase:
    """Build the networks of one case."""
    config = PretrainConfig(
        model=ModelConfig(backbone=backbone),
        method=MethodConfig(queue_size=QUEUE_SIZE, cell_queue_size=0),
        data=DataConfig(frames=FRAMES, crop_size=CROP_PX),
        run=RunConfig(precision=precision),
    )
    clips = torch.randn(batch_size, 3, FRAMES, CROP_PX, CROP_PX)
    fast = build_backbone(backbone).train().to(memory_format=torch.channels_last_3d)
    key = frozen_copy(fast)
    method = FIMA(config.model, config.method).train().to(memory_format=torch.channels_last_3d)
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    batch = random_batch(batch_size, config.data)

    def floor() -> None:
        with autocast(CPU, precision):
            with torch.no_grad():
                for _ in range(KEY_PASSES):
                    key(clips)
            features = [fast(clips).float().mean() for _ in range(QUERY_PASSES)]
        torch.autograd.backward(torch.stack(features).sum())
        fast.zero_grad(set_to_none=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        measured = pretrain_step(method, config, batch, CPU)
        optimizer.step()
        measured.read()

    def augment() -> None:
        for views, draws in ((batch.a, batch.draws_a), (batch.b, batch.draws_b)):
            make_inputs(views, draws)

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        build_backbone(backbone).to("meta")(clips.to("meta"))
    return StepCase(
        unit=plain_forward(backbone, batch_size),
        floor=floor,
        step=step,
        augment=augment,
        multiplications=counter.get_total_flops() // 2,
        encoders=(method.query_encoder, method.key_encoder),
    )


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long one call takes."""
    start = clock()
    function()
    return clock() - start


def peak_mb(function: Callable[[], object]) -> float:
    """Return the highest resident set during a call above the one before it, in MiB (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmRSS")
    function()
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def measure_step(backbone: str, precision: Literal["fp32", "bf16"], batch_size: int, rounds: int) -> dict[str, float]:
    """Time unit, floor, step and its augmentation in turn; the first round warms up."""
    case = step_case(backbone, precision, batch_size)
    plain = PlainProcess(backbone, batch_size)
    matrix = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE)
    clocks: dict[str, Callable[[], float]] = {
        "unit": plain.seconds,
        "unit_kept": lambda: seconds(case.unit),
        "floor": lambda: seconds(case.floor),
        "step": lambda: seconds(case.step),
        "augment": lambda: seconds(case.augment),
        "product": lambda: seconds(lambda: matrix @ matrix),
    }
    times: dict[str, list[float]] = {name: [] for name in clocks}
    for round_number in range(rounds + 1):
        for name, clock in clocks.items():
            taken = clock()
            if round_number:
                times[name].append(taken)
    plain.end()
    unit, unit_kept, floor, step, augment, product = (statistics.median(times[name]) for name in clocks)
    ratio = statistics.median(a / b for a, b in zip(times["step"], times["floor"], strict=True))
    # Backward multiplies twice as often as forward.
    multiplications = case.multiplications * (KEY_PASSES + 3 * QUERY_PASSES)
    return {
        "step_u": round(step / unit, 2),
        "floor_u": round(floor / unit, 2),
        "ratio_to_floor": round(ratio, 3),
        "peak_mb": round(peak_mb(case.step)),
        "unit_seconds": round(unit, 3),
        "unit_kept": round(unit_kept / unit, 2),
        "augmentation_share": round(augment / step, 3),
        "matrix_u": round(multiplications / PRODUCT_SIZE**3 * product / unit, 2),
    }


def measure_compile(
    backbone: str, precision: Literal["fp32", "bf16"], batch_size: int, rounds: int
) -> dict[str, float]:
    """Processor time of steps with compiled encoders, over that of steps without, in turns.

    The first step, which compiles, is reported separately.
    """
    plain, compiled = (step_case(backbone, precision, batch_size) for _ in range(2))
    for encoder in compiled.encoders:
        encoder.compile()
    first = seconds(compiled.step)
    plain.step()
    compiled.step()
    ratios = [seconds(compiled.step, time.process_time) / seconds(plain.step, time.process_time) for _ in range(rounds)]
    return {"ratio_to_eager": round(statistics.median(ratios), 3), "first_step_seconds": round(first, 1)}


def dense_cell_motion(predictions: Tensor, keys: Tensor, pairs: Tensor, batch_cells: Tensor) -> Tensor:
    """The cell loss as its equation is written: every similarity at once."""
    rows = predictions.flatten(0, 1)
    everything = (rows @ batch_cells.T / 0.1).exp()
    positives = ((predictions @ keys.transpose(1, 2) / 0.1).exp() * pairs).sum(dim=2)
    each = -(positives / everything.sum(dim=1).view(positives.shape) + 1e-12).log() * pairs.any(dim=2)
    count = pairs.any(dim=2).sum(dim=1)
    return (each.sum(dim=1) / count.clamp(min=1))[count > 0].mean()


def measure_cell_loss(batch_size: int, rounds: int) -> dict[str, float]:
    """Four calls of the cell loss at the shape of the Kinetics runs, forward and backward, against the dense form."""
    unit_vectors = nn.functional.normalize
    predictions = unit_vectors(torch.randn(batch_size, KINETICS_CELLS, DIM), dim=2).requires_grad_()
    keys = unit_vectors(torch.randn(batch_size, KINETICS_CELLS, DIM), dim=2)
    own = batch_size * KINETICS_CELLS * KINETICS_SLICES
    others = own - batch_size * KINETICS_CELLS + KINETICS_QUEUE
    batch_cells = torch.cat([keys.flatten(0, 1), unit_vectors(torch.randn(others, DIM), dim=1)])
    pairs = torch.rand(batch_size, KINETICS_CELLS, KINETICS_CELLS) < 0.05
    results: dict[str, Tensor] = {}

    def four_calls(name: str, loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            mean_loss = torch.stack([loss() for _ in range(CELL_LOSS_CALLS)]).mean()
            (results[name],) = torch.autograd.grad(mean_loss, predictions)

        return run

    ours = four_calls("ours", lambda: losses.cell_motion(predictions, keys, pairs, batch_cells, temperature=0.1).loss)
    if batch_size > DENSE_AT_MOST:
        ours()
        return {"peak_mb": round(peak_mb(ours)), "seconds": round(seconds(ours), 2)}
    dense = four_calls("dense", lambda: dense_cell_motion(predictions, keys, pairs, batch_cells))
    ratios = [seconds(ours) / seconds(dense) for _ in range(rounds)]
    error = (results["ours"] - results["dense"]).abs().max() / results["dense"].abs().max()
    return {
        "peak_mb": round(peak_mb(ours)),
        "dense_peak_mb": round(peak_mb(dense)),
        "ratio_to_dense": round(statistics.median(ratios), 3),
        "gradient_error": float(f"{error:.1e}"),
    }


def main() -> None:
    """Measure every case and print a line each, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds per case, after one to warm up")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, help="default: as many as PyTorch takes")
    names = [f"{backbone}_{PRECISION_NAMES[precision]}" for backbone, precision in CASES]
    parser.add_argument("--cases", nargs="*", default=[*names, "cell_loss_kinetics"])
    parser.add_argument("--compile", nargs="+", default=[], metavar="BACKBONE", help="compare with compiled encoders")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    results: dict[str, dict[str, float]] = {}
    for name, batch_size in CELL_LOSS_CASES.items():
        if name in arguments.cases:
            results[name] = measure_cell_loss(batch_size, arguments.rounds)
            if not arguments.json:
                print(name, results[name])
    keep_freed_memory()
    for name, (backbone, precision) in zip(names, CASES, strict=True):
        if name in arguments.cases:
            results[name] = measure_step(backbone, precision, arguments.batch_size, arguments.rounds)
            if not arguments.json:
                print(name, results[name], flush=True)
    for backbone in arguments.compile:
        for precision, name in PRECISION_NAMES.items():
            found = measure_compile(backbone, precision, arguments.batch_size, arguments.rounds)
            results[f"{backbone}_{name}_compiled"] = found
            if not arguments.json:
                print(f"{backbone}_{name}_compiled", found, flush=True)
    if arguments.json:
        kept = {
            name: {key: value for key, value in found.items() if key in JSON_KEYS} for name, found in results.items()
        }
        print(json.dumps(kept, indent=2))


if __name__ == "__main__":
    main()
