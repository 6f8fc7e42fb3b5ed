"""The time and memory of training steps on random clips, and whether a device computes what the CPU computes."""

import contextlib
import copy
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fima.benchmark.settings import Precision
from fima.config import DataConfig, MethodConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig
from fima.data.augment import draw_colour, make_inputs
from fima.data.epoch_plan import item_generator
from fima.data.loader import PretrainBatch
from fima.data.views import ClipViews
from fima.method.fima import FIMA
from fima.torch_tools.precision import autocast, lay_out
from fima.train.pretrain import pretrain_step

QUEUE_SIZE = 2_240
MOST_REPEATS = 10
PARITY_TOLERANCE = 1e-4
RANDOM_VIDEOS = 4
"""Videos of noise that are drawn; a larger batch repeats them."""


@dataclass(frozen=True, kw_only=True)
class StepCase:
    """One way to take a step."""

    backbone: str
    method: Literal["fima", "moco"] = "fima"
    precision: Precision = "fp32"
    """What the networks compute in."""
    batch_size: int
    frames: int = 16
    crop_size: int = 224
    """Side of the clips, in pixels."""
    channels_last: bool = True
    """Whether weights and clips are laid out with channels last, as in training."""
    compiled: bool = False

    def config(self) -> PretrainConfig:
        """The settings of a run that takes such steps; dropout is off, so that devices can be compared."""
        return PretrainConfig(
            model=ModelConfig(backbone=self.backbone, compile=self.compiled, decoder_dropout=0),
            method=MethodConfig(name=self.method, queue_size=QUEUE_SIZE, cell_queue_size=0),
            data=DataConfig(frames=self.frames, crop_size=self.crop_size),
            optim=OptimConfig(batch_size=self.batch_size),
            run=RunConfig(precision="bf16" if self.precision == "bf16" else "fp32"),
        )

    def build(self, device: torch.device) -> FIMA:
        """The networks, with random weights, in training mode."""
        config = self.config()
        method = FIMA(config.model, config.method).train().to(device)
        if self.channels_last:
            lay_out(method, torch.channels_last_3d)
        if self.compiled:
            for network in (method.query_encoder, method.key_encoder):
                network.compile()
        return method


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What a case takes; None where it was not measured."""

    case: StepCase
    step_seconds: float | None = None
    """A whole step: augmentation, losses, backward, optimiser, with the copy of the batch to the device."""
    key_pass_seconds: float | None = None
    """One forward pass of the key encoder."""
    query_pass_seconds: float | None = None
    """One forward and backward pass of the query encoder."""
    floor_seconds: float | None = None
    """The encoder passes of a step alone, in the same precision and layout."""
    peak_bytes: int | None = None
    """The most memory that tensors took during a step; on a CPU, of the process, above what it had before."""
    error: str = ""

    @property
    def videos_per_second(self) -> float | None:
        """Videos of the steps in a second."""
        return None if self.step_seconds is None else self.case.batch_size / self.step_seconds

    @property
    def floor_share(self) -> float | None:
        """Share of the step that its encoder passes take."""
        if self.step_seconds is None or self.floor_seconds is None:
            return None
        return self.floor_seconds / self.step_seconds


def random_batch(batch_size: int, data: DataConfig, *, noise: bool = True) -> PretrainBatch:
    """Return views of noise, or of black pixels that take no memory, with colour draws and boxes as in training."""
    generator = item_generator(0)
    drawn = min(batch_size, RANDOM_VIDEOS)
    rows = torch.arange(batch_size) % drawn
    shape = (drawn, 3, data.frames, data.crop_size, data.crop_size)
    box = torch.tensor([[0.1, 0.1, 0.9, 0.9]]).repeat(batch_size, 1)
    random = torch.Generator().manual_seed(0)

    def views() -> ClipViews:
        if not noise:
            black = torch.zeros((1, *shape[1:]), dtype=torch.uint8).expand(batch_size, *shape[1:])
            return ClipViews(full=black, early=black, late=black, box=box)
        draw = functools.partial(torch.randint, 0, 256, shape, generator=random, dtype=torch.uint8)
        return ClipViews(full=draw()[rows], early=draw()[rows], late=draw()[rows], box=box)

    draws = [torch.stack([draw_colour(generator, 4, data) for _ in range(drawn)])[rows] for _ in range(2)]
    return PretrainBatch(
        a=views(),
        b=views(),
        draws_a=draws[0],
        draws_b=draws[1],
        index=torch.arange(batch_size),
        paths=[""] * batch_size,
        labels=torch.full((batch_size,), -1),
        skipped=[],
    )


def measure_step(case: StepCase, device: torch.device, seconds: float) -> StepFigures:
    """Take steps for about so many seconds, a third of them encoder passes; memory errors become the figures' error."""
    try:
        release(device)
        with precision_of(case.precision):
            return _measure(case, device, seconds)
    except torch.OutOfMemoryError:
        return StepFigures(case=case, error="out of memory")
    except RuntimeError as error:  # cuDNN and compilers have errors of their own
        return StepFigures(case=case, error=str(error).strip().partition("\n")[0][:200])


def _measure(case: StepCase, device: torch.device, seconds: float) -> StepFigures:
    config, method = case.config(), case.build(device)
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    batch = random_batch(case.batch_size, config.data)
    batch = batch.pin_memory() if device.type == "cuda" else batch
    layout = torch.channels_last_3d if case.channels_last else torch.contiguous_format
    clips = torch.randn(case.batch_size, 3, case.frames, case.crop_size, case.crop_size, device=device)
    clips = clips.to(memory_format=layout)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        measured = pretrain_step(method, config, batch, device)
        optimizer.step()
        measured.read()

    @torch.no_grad()
    def key_pass() -> None:
        method.key_encoder(clips)

    def query_pass() -> None:
        torch.autograd.backward(method.query_encoder(clips).float().mean())
        method.zero_grad(set_to_none=True)

    step_seconds, peak = median_seconds(step, device, seconds * 2 / 3), None
    with contextlib.suppress(OSError):
        peak = peak_bytes(step, device)
    with autocast(device, config.run.precision):
        query = median_seconds(query_pass, device, seconds / 6)
        key = median_seconds(key_pass, device, seconds / 6)
    key_passes = 2 * len({view for term in method.terms for view in term.views})
    return StepFigures(
        case=case,
        step_seconds=step_seconds,
        key_pass_seconds=key,
        query_pass_seconds=query,
        floor_seconds=key_passes * key + 2 * query,
        peak_bytes=peak,
    )


def largest_batch(small: StepFigures, large: StepFigures, device: torch.device) -> int | None:
    """The largest batch of which a step fits a GPU, by the memory of two batches, and tried; None without an answer."""
    videos = large.case.batch_size - small.case.batch_size
    if small.peak_bytes is None or large.peak_bytes is None or videos <= 0:
        return None
    each = (large.peak_bytes - small.peak_bytes) / videos
    release(device)
    free = torch.cuda.mem_get_info(device)[0]
    size = int((0.97 * free - (small.peak_bytes - each * small.case.batch_size)) / each)
    while size > large.case.batch_size:
        case = replace(large.case, batch_size=size)
        if not measure_step(case, device, seconds=0).error:
            return size
        size = int(0.94 * size)
    return large.case.batch_size


def median_seconds(function: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median of some seconds of calls, after one to warm up; of that one, where a CPU takes longer for it."""
    taken = [timed(function, device)]
    if taken[0] < seconds or device.type == "cuda":
        taken = [timed(function, device)]
    begin = time.perf_counter()
    while len(taken) < MOST_REPEATS and time.perf_counter() - begin + taken[-1] < seconds:
        taken.append(timed(function, device))
    return statistics.median(taken)


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes, the work of its device included."""
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize
    wait(device)
    begin = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - begin


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """The most memory during a call: of a GPU's tensors; on a CPU, of the process above what it held before (Linux).

    Raises OSError where the system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    function()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def release(device: torch.device) -> None:
    """Give what nobody holds any more back to a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def precision_of(precision: Precision) -> Iterator[None]:
    """Let GPUs compute float32 convolutions in TF32, as PyTorch does by default, or exactly where asked for `fp32`."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def augmentation_rate(device: torch.device, data: DataConfig, seconds: float) -> float:
    """Videos a second whose views are coloured on a device, all four tensors of both clips."""
    batch = random_batch(2 * RANDOM_VIDEOS, data).to(device)

    def augment() -> list[Tensor]:
        both = ((batch.a, batch.draws_a), (batch.b, batch.draws_b))
        made = [make_inputs(views, draws) for views, draws in both]
        return [inputs.full for inputs in made]

    return 2 * RANDOM_VIDEOS / median_seconds(augment, device, seconds)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The losses of the first step on two devices."""

    backbone: str
    cpu: dict[str, float]
    """Losses on the CPU, by name, in float32."""
    device: dict[str, float]
    """The same on the other device, without TF32."""

    @property
    def deviation(self) -> float:
        """The largest relative difference of a loss."""
        return max(abs(self.device[name] - value) / max(abs(value), 1e-12) for name, value in self.cpu.items())

    @property
    def holds(self) -> bool:
        """Whether the losses agree to `PARITY_TOLERANCE`."""
        return self.deviation <= PARITY_TOLERANCE


def check_parity(backbone: str, device: torch.device) -> Parity:
    """Take a step on the CPU and on a device, from the same weights, clips and draws, and compare the losses."""
    case = StepCase(backbone=backbone, batch_size=4, crop_size=112)
    config = case.config()
    torch.manual_seed(0)
    method = case.build(torch.device("cpu"))
    batch = random_batch(case.batch_size, config.data)
    other = copy.deepcopy(method).to(device)
    losses = []
    with precision_of("fp32"):
        for networks, where in ((method, torch.device("cpu")), (other, device)):
            values = pretrain_step(networks, config, batch, where).read()
            losses.append({name: value for name, value in values.items() if name in ("loss", *method.weights)})
    return Parity(backbone=backbone, cpu=losses[0], device=losses[1])
