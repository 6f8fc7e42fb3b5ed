"""How the cost of a step grows with batch, frames, crop, queues and cells; and what two processes make of two cores.

The growth: steps of the `tiny` backbone on one thread, one setting changed at a time. Time is the processor time of a
step, settings in turn, the smallest of the rounds; memory is counted as in memory.py. Beside each stands a formula:

    time   = a + b·B·F·S² + c·B·K·D + d·M·D + e·M·(M + K_c)·D
    memory = a + b·B·F·S² + c·B·K + d·M·D + e·K·D + f·K_c·D

of B videos of F frames and S² pixels, K keys and K_c cells in the queues, M = B·t·N cells of the clips, D numbers in an
embedding. In time these are weights, encoders and augmentation, the losses of whole clips, decoder and projector of the
cells, and the cell loss. The coefficients are fitted to all rows at once, none below zero.

`--processes` compares, by processor time and by the clock, in turns: one process with a batch of 2B; two processes with
B videos each that do not know of each other; the same two as one run. Each works on one thread.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import interpolate

from fima.backbones.base import Backbone
from fima.benchmark.steps import random_batch
from fima.config import DataConfig, MethodConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig
from fima.method.fima import FIMA
from fima.torch_tools import distributed
from fima.torch_tools.allocator import keep_freed_memory
from fima.train.pretrain import pretrain_step
from memory import peak_bytes
from step import CPU
from tables import markdown_table

MIB = 2**20
BASE = PretrainConfig(
    model=ModelConfig(backbone="tiny", decoder_dim=128),
    method=MethodConfig(queue_size=2_048, cell_queue_size=4_096),
    data=DataConfig(frames=8, crop_size=64),
    optim=OptimConfig(batch_size=8),
    run=RunConfig(precision="fp32"),
)
BASE_SIDE = 4
"""Rows and columns of the feature map of `BASE`."""
DEPARTURE = 0.05
"""A measured value that is further from the formula than this share of it is marked."""
FRAMES_PER_SLICE = 4
NUM_PROCESSES = 2
PLOTTED_COLOURS = ("#1f6f8b", "#c8553d")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table."""

    what: str
    """Which setting differs from the base."""
    value: int
    config: PretrainConfig
    side: int
    """Rows and columns of the feature map that the losses see."""

    def shape(self) -> tuple[float, float, float, float, float]:
        """Return B·F·S², K, K_c, M and D."""
        batch, data, method = self.config.optim.batch_size, self.config.data, self.config.method
        cells = batch * data.frames // FRAMES_PER_SLICE * self.side**2
        pixels = batch * data.frames * data.crop_size**2
        assert method.queue_size is not None
        assert method.cell_queue_size is not None
        return pixels, method.queue_size, method.cell_queue_size, cells, self.config.model.embedding_dim

    def time_terms(self) -> list[float]:
        """Return what each coefficient of the time is multiplied by."""
        pixels, keys, queued_cells, cells, dim = self.shape()
        products = self.config.optim.batch_size * keys * dim
        return [1, pixels, products, cells * dim, cells * (cells + queued_cells) * dim]

    def memory_terms(self) -> list[float]:
        """Return what each coefficient of the memory is multiplied by."""
        pixels, keys, queued_cells, cells, dim = self.shape()
        return [1, pixels, self.config.optim.batch_size * keys, cells * dim, keys * dim, queued_cells * dim]


class Resampled(Backbone):
    """An encoder whose feature map is brought to another size, so that the losses see more or fewer cells."""

    def __init__(self, encoder: Backbone, side: int) -> None:
        super().__init__()
        self.encoder, self.side, self.num_features = encoder, side, encoder.num_features

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, C, t, side, side)."""
        features: Tensor = self.encoder(clip)
        return interpolate(features, (features.shape[2], self.side, self.side))


def settings() -> list[Setting]:
    """Return the rows of the table."""
    rows = []
    for value in (2, 4, 8, 16, 32):
        rows.append(("batch", value, replace(BASE, optim=replace(BASE.optim, batch_size=value)), BASE_SIDE))
    for value in (4, 8, 16, 32):
        rows.append(("frames", value, replace(BASE, data=replace(BASE.data, frames=value)), BASE_SIDE))
    for value in (32, 64, 96, 128):
        config = replace(BASE, data=replace(BASE.data, crop_size=value))
        rows.append(("crop, px", value, config, value * BASE_SIDE // BASE.data.crop_size))
    for value in (256, 2_048, 16_384, 65_536):
        rows.append(("queue", value, replace(BASE, method=replace(BASE.method, queue_size=value)), BASE_SIDE))
    for value in (512, 4_096, 31_360):
        config = replace(BASE, method=replace(BASE.method, cell_queue_size=value))
        rows.append(("dense queue", value, config, BASE_SIDE))
    for value in (2, 4, 7, 10, 14):
        rows.append(("cells N", value**2, BASE, value))
    return [Setting(what=what, value=value, config=config, side=side) for what, value, config, side in rows]


def resample(method: FIMA, side: int) -> None:
    """Give the losses feature maps of `side` rows and columns."""
    method.query_encoder = Resampled(method.query_encoder, side)
    method.key_encoder = Resampled(method.key_encoder, side)


def build(config: PretrainConfig) -> FIMA:
    """Return the networks as a run has them."""
    return FIMA(config.model, config.method).train().to(memory_format=torch.channels_last_3d)


def training_step(config: PretrainConfig, method: FIMA, model: nn.Module | None = None) -> Callable[[], object]:
    """Return a function that trains one step on noise."""
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    batch = random_batch(config.optim.batch_size, config.data)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        measured = pretrain_step(method if model is None else model, config, batch, CPU)
        optimizer.step()
        measured.read()

    return step


def seconds_of(rows: Sequence[Setting], rounds: int) -> list[float]:
    """Return the smallest processor time of each setting's step, after a round to warm up."""
    steps = []
    for row in rows:
        method = build(row.config)
        if row.what == "cells N":
            resample(method, row.side)
        steps.append(training_step(row.config, method))
    best = [float("inf")] * len(rows)
    for round_number in range(rounds + 1):
        for number, step in enumerate(steps):
            start = time.process_time()
            step()
            if round_number:
                best[number] = min(best[number], time.process_time() - start)
    return best


def memory_of(row: Setting) -> float:
    """Return the counted peak of a step, in MiB."""
    change = (lambda method: resample(method, row.side)) if row.what == "cells N" else None
    return peak_bytes(row.config, change) / MIB


def fitted(terms: list[list[float]], measured: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coefficients that are nearest in relative terms, none below zero, and the values of the formula."""
    matrix = np.array(terms)
    relative = matrix / np.array(measured)[:, None]
    coefficients = np.zeros(matrix.shape[1])
    kept = np.arange(matrix.shape[1])
    while len(kept):
        found = np.linalg.lstsq(relative[:, kept] / relative[:, kept].max(axis=0), np.ones(len(measured)))[0]
        if (found >= 0).all():
            coefficients[kept] = found / relative[:, kept].max(axis=0)
            break
        kept = np.delete(kept, found.argmin())
    return coefficients, matrix @ coefficients


def cell_text(measured: float, formula: float, digits: int) -> list[str]:
    """Return a measured value, that of the formula, and their ratio, in bold where they are far apart."""
    ratio = measured / formula
    text = f"{ratio:.2f}"
    return [
        f"{measured:.{digits}f}",
        f"{formula:.{digits}f}",
        f"**{text}**" if abs(ratio - 1) > DEPARTURE else text,
    ]


def plot(rows: Sequence[Setting], values: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw a panel for each setting: time and memory, dots for what was measured, lines for the formula."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row.what for row in rows))
    figure, panels = pyplot.subplots(2, len(names), figsize=(13, 4.6), sharey="row", constrained_layout=True)
    for (line, name), colour in zip(enumerate(values), PLOTTED_COLOURS, strict=True):
        for panel, what in zip(panels[line], names, strict=True):
            chosen = [(row.value, *pair) for row, pair in zip(rows, values[name], strict=True) if row.what == what]
            x, measured, formula = zip(*chosen, strict=True)
            panel.loglog(x, formula, color=colour, linewidth=1, label="formula")
            panel.loglog(x, measured, "o", color=colour, markersize=4, label="measured")
            panel.minorticks_off()
            panel.set_xticks(x, [f"{value:,}" for value in x], fontsize=7)
            if line == 1:
                panel.set_xlabel(what)
        panels[line][0].set_ylabel(name)
        panels[line][0].legend(frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def growth(rounds: int, picture: Path | None) -> None:
    """Print the table and the coefficients, and draw the picture."""
    rows = settings()
    seconds = seconds_of(rows, rounds)
    memory = [memory_of(row) for row in rows]
    time_coefficients, time_formula = fitted([row.time_terms() for row in rows], seconds)
    memory_coefficients, memory_formula = fitted([row.memory_terms() for row in rows], memory)
    table = []
    for row, took, expected, mib, expected_mib in zip(rows, seconds, time_formula, memory, memory_formula, strict=True):
        texts = cell_text(1000 * took, 1000 * expected, 0) + cell_text(mib, expected_mib, 0)
        table.append([f"{row.what} {row.value:,}", *texts])
    header = ["setting", "ms", "formula", "ratio", "MiB", "formula", "ratio"]
    print(markdown_table(header, table))
    print("time, seconds:", " ".join(f"{value:.2e}" for value in time_coefficients))
    print("memory, bytes:", " ".join(f"{MIB * value:.3g}" for value in memory_coefficients))
    if picture is not None:
        milliseconds = [
            (1000 * took, 1000 * float(expected)) for took, expected in zip(seconds, time_formula, strict=True)
        ]
        mib_pairs = [(mib, float(expected)) for mib, expected in zip(memory, memory_formula, strict=True)]
        plot(rows, {"ms a step": milliseconds, "MiB": mib_pairs}, picture)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let the code inside believe that its process has no group."""
    original = distributed.is_initialized
    distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        distributed.is_initialized = original


def compared_processes(rank: int, folder: str, config: PretrainConfig, rounds: int) -> None:
    """In one of two processes: take the three kinds of steps in turns, and write down the seconds of each."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=NUM_PROCESSES)
    twice = replace(config, optim=replace(config.optim, batch_size=NUM_PROCESSES * config.optim.batch_size))
    methods = [FIMA(config.model, config.method).train().to(memory_format=torch.channels_last_3d) for _ in range(3)]
    steps = {
        "one": training_step(twice, methods[0]),
        "apart": training_step(config, methods[1]),
        "together": training_step(config, methods[2], distributed.data_parallel(methods[2])),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            dist.barrier()
            if name == "one" and rank > 0:
                continue
            start, start_cpu = time.perf_counter(), time.process_time()
            with contextlib.nullcontext() if name == "together" else alone():
                step()
            found[name].append((time.perf_counter() - start, time.process_time() - start_cpu))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def processes(config: PretrainConfig, rounds: int) -> list[str]:
    """Return a row of the table: best seconds, and the efficiency by the clock and by processor time."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(compared_processes, (folder, config, rounds), nprocs=NUM_PROCESSES)  # type: ignore[no-untyped-call]
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(NUM_PROCESSES)]
    # The first round warms up. A step of two processes takes as long as the slower of them.
    clock, processor = {}, {}
    for name in ("one", "apart", "together"):
        each = [np.array(process[name][1:]) for process in found if process[name]]
        clock[name] = np.max([times[:, 0] for times in each], axis=0).min()
        processor[name] = sum(times[:, 1].min() for times in each)
    return [
        f"{config.model.backbone}, B = {config.optim.batch_size}",
        *(f"{seconds:.2f}" for seconds in (*clock.values(), *processor.values())),
        *(
            f"{seconds[before] / (share * seconds['together']):.2f}"
            for seconds, together in ((processor, 1), (clock, NUM_PROCESSES))
            for before, share in (("one", together), ("apart", 1))
        ),
    ]


def main() -> None:
    """Print how a step's cost grows, or what two processes make of two cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="draw the growth into this file")
    parser.add_argument("--processes", action="store_true", help="compare one process with two")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    if not arguments.processes:
        growth(arguments.rounds, arguments.plot)
        return
    tiny = replace(BASE, data=replace(BASE.data, frames=16, crop_size=112))
    i3d = replace(tiny, model=ModelConfig(backbone="i3d"))
    smaller = replace(i3d, optim=replace(BASE.optim, batch_size=4))
    rows = [processes(config, arguments.rounds) for config in (tiny, smaller, i3d)]
    kinds, shares = ("one", "apart", "together"), ("of ideal", "of the two apart")
    header = ["two processes", *(f"{kind}, s" for kind in kinds), *(f"{kind}, s of processor time" for kind in kinds)]
    print(markdown_table([*header, *shares, *(f"{share}, by the clock" for share in shares)], rows))


if __name__ == "__main__":
    main()
