"""What `fima --version` names, and what `fima doctor --system` checks: versions, device, codecs, limits."""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.filesize import decimal

from fima.console import Console
from fima.data.workers.killable_pool import available_cores
from fima.errors import first_line
from fima.version import __version__, pip_install

LIBRARIES = ("torch", "torchvision", "av", "numpy", "tyro")
EXTRAS = {
    "hub": ("huggingface_hub",),
    "lars": ("timm",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "parquet": ("pyarrow",),
    "transformers": ("transformers",),
}
"""Extras of the distribution, and the modules that each brings."""
DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
ENCODER = "libx264"
SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED_BYTES = 2 * 2**30
"""Two batches of 64 at the paper's size, for each of a few workers."""
LEAST_OPEN_FILES = 1024
DRIVER = Path("/proc/driver/nvidia/version")
State = Literal["ok", "note", "problem"]
STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "problem": "red"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check."""

    name: str
    found: str
    state: State = "ok"
    """`note`: something does not work, or slower; `problem`: training or evaluation will fail."""
    advice: str = ""
    """What to do; empty where nothing is to be done."""


def versions() -> list[str]:
    """Return names and versions of this program, Python and the main libraries, without importing them."""
    found = [f"fima {__version__}", f"Python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} missing")
    return found


def missing_extras() -> dict[str, list[str]]:
    """Return the extras that are not installed, each with the modules that it lacks."""
    lacking = {extra: [name for name in names if find_spec(name) is None] for extra, names in EXTRAS.items()}
    return {extra: names for extra, names in lacking.items() if names}


def device_name() -> str:
    """Return what `--device auto` takes, such as `cuda (NVIDIA A100, 80.0 GB)` or `cpu (8 cores)`."""
    import torch

    if not torch.cuda.is_available():
        return f"cpu ({available_cores()} cores)"
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return f"cuda ({', '.join(f'{gpu.name}, {decimal(gpu.total_memory)}' for gpu in gpus)})"


def version_text() -> str:
    """Return what `fima --version` prints."""
    own, *others = versions()
    here = [extra for extra in EXTRAS if extra not in missing_extras()]
    lines = [own, ", ".join(others), f"device: {device_name()}", f"extras: {', '.join(here) or 'none'}"]
    return "\n".join(lines)


def check_system() -> list[Check]:
    """Check what does not depend on the videos."""
    checks = [Check(name="Python", found=f"{platform.python_version()}, {platform.platform()}")]
    return [*checks, *_libraries(), _gpu(), _compiler(), *_codecs(), *_limits(), *_extras()]


def show_checks(checks: list[Check], console: Console) -> None:
    """Print a line a check, and below it what to do."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        console.print(f"{check.state:>7}", style=STYLES[check.state], end="")
        console.print(f"  {check.name:<{width}}  {check.found}", soft_wrap=True)
        if check.advice:
            console.print(f"{'':>9}{'':<{width}}  → {check.advice}", soft_wrap=True)
    problems = sum(check.state == "problem" for check in checks)
    console.print(f"{problems} to put right" if problems else "nothing to put right")


def _libraries() -> Iterator[Check]:
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
            yield Check(name=name, found=metadata.version(name))
        except Exception as error:  # a library built for another version may fail in any way
            advice = f"install {name} again for {sys.executable}, in a version that fits torch"
            yield Check(name=name, found=f"cannot be imported ({first_line(error)})", state="problem", advice=advice)


def _gpu() -> Check:
    try:
        import torch

        if torch.cuda.is_available():
            return Check(name="device", found=device_name())
        built_for = torch.version.cuda
    except Exception as error:
        return Check(name="device", found=f"unknown ({error})", state="problem", advice="put torch right first")
    if not DRIVER.exists():
        return Check(name="device", found=f"{device_name()}, no NVIDIA driver")
    advice = f"update the driver to one for CUDA {built_for}" if built_for else "install torch's build for CUDA"
    found = f"{device_name()}; there is an NVIDIA driver, but this torch does not see a GPU"
    return Check(name="device", found=found, state="note", advice=advice)


def _compiler() -> Check:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is not None:
        return Check(name="C++ compiler", found=compiler)
    advice = "--model.compile needs one on a CPU; everything else works"
    return Check(name="C++ compiler", found="none", state="note", advice=advice)


def _codecs() -> Iterator[Check]:
    try:
        from av.codec import codecs_available
    except Exception:  # said by `_libraries`
        return
    wheel = f"install PyAV's own wheel, which has it, for {sys.executable}"
    for name in DECODERS:
        if name not in codecs_available:
            advice = f"videos of this codec are skipped; {wheel}"
            yield Check(name="decoder", found=f"no {name}", state="note", advice=advice)
    if ENCODER not in codecs_available:
        advice = f"`fima make-data`, `demo`, `prepare` and the films of `cam` need it; {wheel}"
        yield Check(name="encoder", found=f"no {ENCODER}", state="problem", advice=advice)
    found = ", ".join(name for name in (*DECODERS, ENCODER) if name in codecs_available)
    yield Check(name="codecs", found=found)


def _limits() -> Iterator[Check]:
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        advice = "start a container with --shm-size=8g; or train with a smaller batch, or --data.workers 0"
        yield _limit("shared memory", f"{decimal(free)} free", enough=free >= LEAST_SHARED_BYTES, advice=advice)
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    shown = "no limit" if unlimited else f"up to {soft:,} in a process"
    advice = f"run `ulimit -n {hard}` before training" if hard > soft else "ask for a higher limit"
    yield _limit("open files", shown, enough=unlimited or soft >= LEAST_OPEN_FILES, advice=advice)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Check(name="memory", found=f"{decimal(memory)}, {available_cores()} cores")


def _limit(name: str, found: str, *, enough: bool, advice: str) -> Check:
    return Check(name=name, found=found) if enough else Check(name=name, found=found, state="note", advice=advice)


def _extras() -> Iterator[Check]:
    missing = missing_extras()
    for extra in EXTRAS:
        if extra in missing:
            advice = f"only if you need it: {pip_install(extra)}"
            yield Check(name=f"extra [{extra}]", found=f"no {', '.join(missing[extra])}", state="note", advice=advice)
        else:
            yield Check(name=f"extra [{extra}]", found="installed")
