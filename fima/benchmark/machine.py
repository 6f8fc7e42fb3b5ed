"""Everything that `fima benchmark` measures of one machine, in an order in which the time may run out."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fima.benchmark import steps
from fima.benchmark.settings import BenchmarkSettings, Precision
from fima.benchmark.steps import Parity, StepCase, StepFigures
from fima.benchmark.videos import DecodeFigures, measure_decoding
from fima.checkpoints.checkpoint import versions
from fima.config import DataConfig, FinetuneConfig
from fima.data.workers.killable_pool import available_cores
from fima.recipe import RECIPES, read_recipe, read_yaml
from fima.train.resolve import computes_in_bfloat16

GPU_BATCHES, CPU_BATCHES = (8, 32), (2,)
GPU_CROP_PX, CPU_CROP_PX = 224, 112
MOST_SECONDS_A_CASE = 8.0
OUT_OF_TIME = "out of time; give more --seconds"
NUM_VIDEOS: Mapping[str, int] = {"ucf101": 9_537, "hmdb51": 3_570, "k400": 240_000}
"""Training videos: split 1 of UCF101 and HMDB51, and Kinetics-400 in round numbers."""
FINETUNED_BACKBONE = "i3d"


def step_cases(settings: BenchmarkSettings, device: torch.device) -> Iterator[StepCase]:
    """The steps to take, those that say most first."""
    gpu = device.type == "cuda"
    native: tuple[Precision, ...] = ("bf16",) if computes_in_bfloat16(device) else ()
    precisions = settings.precisions or ((*native, "tf32", "fp32") if gpu else (*native, "fp32"))
    batches = sorted(settings.batches) or (GPU_BATCHES if gpu else CPU_BATCHES)
    crop_size = settings.crop_size or (GPU_CROP_PX if gpu else CPU_CROP_PX)
    best, last = precisions[0], batches[-1]
    cases = [StepCase(backbone=each, batch_size=last, crop_size=crop_size) for each in settings.backbones]
    for precision in precisions:
        for batch in reversed(batches):
            for case in cases:
                yield replace(case, precision=precision, batch_size=batch)
    for case in cases:
        yield replace(case, precision=best, method="moco")
    for case in cases:
        for precision in precisions[:2]:
            yield replace(case, precision=precision, channels_last=False)
    for case in cases if settings.compile else ():
        for precision in precisions[:2]:
            yield replace(case, precision=precision, compiled=True)


@dataclass(frozen=True, kw_only=True)
class RecipeHours:
    """One recipe."""

    recipe: str
    videos: int
    epochs: int
    videos_per_second: float
    """At which it would train, if its batches are there in time."""

    @property
    def hours(self) -> float:
        """Training, without tests and checkpoints."""
        return self.videos * self.epochs / self.videos_per_second / 3600


def recipe_hours(figures: Sequence[StepFigures]) -> Iterator[RecipeHours]:
    """The recipes whose encoder and method were measured, at the highest speed.

    Fine-tuning is taken as one forward and backward pass of the encoder, linear probing as one forward pass. Speeds at
    another crop size are scaled by its area.
    """
    for path in sorted(RECIPES.glob("*.yaml")):
        config = read_recipe(path, FinetuneConfig) if "classifier" in read_yaml(path) else read_recipe(path)
        if config.data.dataset not in NUM_VIDEOS:
            continue
        if isinstance(config, FinetuneConfig):
            which = "key_pass_seconds" if config.classifier.freeze else "query_pass_seconds"
            rates = _rates(figures, FINETUNED_BACKBONE, None, which, config.data.crop_size)
        else:
            rates = _rates(figures, config.model.backbone, config.method.name, "step_seconds", config.data.crop_size)
        if rates:
            videos, epochs = NUM_VIDEOS[config.data.dataset], config.optim.epochs
            yield RecipeHours(recipe=path.stem, videos=videos, epochs=epochs, videos_per_second=max(rates))


def _rates(figures: Sequence[StepFigures], backbone: str, method: str | None, which: str, crop_px: int) -> list[float]:
    """Videos a second at another crop size, for each case of a backbone and a method (None: any)."""
    found = []
    for each in figures:
        seconds: float | None = getattr(each, which)
        if seconds and each.case.backbone == backbone and method in (None, each.case.method):
            found.append(each.case.batch_size / seconds * (each.case.crop_size / crop_px) ** 2)
    return found


@dataclass(kw_only=True)
class Measured:
    """What was found; filled as it goes."""

    machine: dict[str, Any]
    """Versions, device, processor."""
    decoding: DecodeFigures | None = None
    """Decoding and cropping; None where it failed."""
    augmentation: float | None = None
    """Videos a second whose views are coloured on the device."""
    steps: list[StepFigures] = field(default_factory=list)
    """A row a case."""
    largest: dict[str, int] = field(default_factory=dict)
    """The largest batch that fits a GPU, by backbone and precision, such as `i3d bf16`."""
    parity: list[Parity] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    """What could not be measured, and why."""

    def recipes(self) -> list[RecipeHours]:
        """How long each recipe would run, as far as its step was measured."""
        return list(recipe_hours(self.steps))

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        rows = [{**asdict(each), "videos_per_second": each.videos_per_second} for each in self.steps]
        rows = [{**step.pop("case"), **step} for step in rows]
        return {
            "machine": self.machine,
            "decoding": None if self.decoding is None else asdict(self.decoding),
            "augmentation_videos_per_second": self.augmentation,
            "steps": rows,
            "largest_batch": self.largest,
            "recipes": [{**asdict(each), "hours": each.hours} for each in self.recipes()],
            "parity": [{**asdict(each), "deviation": each.deviation, "holds": each.holds} for each in self.parity],
            "errors": self.errors,
        }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a figure of this machine depends on."""
    found: dict[str, Any] = {
        **versions(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        found |= {"gpu": gpu.name, "gpu_bytes": gpu.total_memory, "cuda": torch.version.cuda}
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found


def measure(settings: BenchmarkSettings, device: torch.device, say: Callable[[str], None]) -> Measured:
    """Measure what fits into the time; `say` is called with what comes next."""
    begin = time.monotonic()
    measured = Measured(machine=describe_machine(device))
    cases = list(step_cases(settings, device))
    data = DataConfig(frames=cases[0].frames, crop_size=cases[0].crop_size)
    if settings.parity:
        for backbone in settings.backbones:
            say(f"parity: {backbone}")
            measured.parity.append(steps.check_parity(backbone, device))
    say("decoding")
    try:
        measured.decoding = measure_decoding(data, seconds=settings.seconds / 12)
    except Exception as error:  # a PyAV without an encoder for H.264, or none: the rest is worth having
        measured.errors["decoding"] = f"{type(error).__name__}: {error}"
    say("augmentation")
    measured.augmentation = steps.augmentation_rate(device, data, seconds=settings.seconds / 40)
    for case in cases:
        if time.monotonic() - begin > settings.seconds:
            measured.steps.append(StepFigures(case=case, error=OUT_OF_TIME))
            continue
        say(f"{case.method} {case.backbone} {case.precision}, {case.batch_size} videos")
        measured.steps.append(steps.measure_step(case, device, seconds=min(MOST_SECONDS_A_CASE, settings.seconds / 12)))
    if device.type == "cuda":
        _find_largest(settings, device, measured, begin, say)
    return measured


def _find_largest(
    settings: BenchmarkSettings, device: torch.device, measured: Measured, begin: float, say: Callable[[str], None]
) -> None:
    plain = [each for each in measured.steps if each.case.channels_last and not each.case.compiled]
    for backbone in settings.backbones:
        for precision in ("bf16", "tf32"):
            alike = [each for each in plain if (each.case.backbone, each.case.precision) == (backbone, precision)]
            alike = sorted((each for each in alike if each.case.method == "fima"), key=lambda e: e.case.batch_size)
            if len(alike) > 1 and time.monotonic() - begin < settings.seconds:
                say(f"largest batch: {backbone} {precision}")
                found = steps.largest_batch(alike[0], alike[-1], device)
                if found is not None:
                    measured.largest[f"{backbone} {precision}"] = found


def _processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
