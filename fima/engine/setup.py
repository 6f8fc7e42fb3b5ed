"""What is decided before the first step: device, queue sizes, the folder, and what deserves a warning."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from fima.config import FinetuneConfig, PretrainConfig, published_queue_sizes
from fima.data.datasets import VideoList
from fima.engine import distributed
from fima.engine.checkpoint import Checkpoint, Progress, RunState, load_checkpoint, versions
from fima.engine.run_folder import RunFolder, check_resumed_config
from fima.errors import ConfigError, DataError
from fima.recipe import RunSettings

QUEUE_WARNING_SHARE = 0.25
FIRST_GPUS_WITH_BFLOAT16 = (8, 0)


def choose_device(name: str, *, flag: str = "run.device") -> torch.device:
    """Return the device that a flag names.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--{flag} {name}: unknown; choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--{flag} {name}: {torch.cuda.device_count()} GPUs are visible; choose another or cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--{flag} {name}: choose auto, cpu, cuda or cuda:N")
    return device


def with_queue_sizes(config: PretrainConfig, num_videos: int) -> PretrainConfig:
    """Return the settings with the published queue sizes in the place of None."""
    keys, cells = published_queue_sizes(num_videos)
    method = config.method
    method = dataclasses.replace(
        method,
        queue_size=keys if method.queue_size is None else method.queue_size,
        cell_queue_size=cells if method.cell_queue_size is None else method.cell_queue_size,
    )
    return dataclasses.replace(config, method=method)


def with_precision(config: RunSettings, device: torch.device) -> RunSettings:
    """Return the settings with what the device computes in fast in the place of `auto`, so that the run keeps it."""
    if config.run.precision != "auto":
        return config
    precision: Literal["fp32", "bf16"] = "bf16" if computes_in_bfloat16(device) else "fp32"
    return dataclasses.replace(config, run=dataclasses.replace(config.run, precision=precision))


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is an instruction of the device; elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_GPUS_WITH_BFLOAT16
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def find_start(config: PretrainConfig, run: RunFolder, videos: VideoList, *, resume: bool) -> Checkpoint | None:
    """Check that the folder may be written, and return the checkpoint that its run continues from.

    Returns:
        None for a run that starts from random weights.

    Raises:
        ConfigError: the folder is taken, or holds no run to resume, or one with other settings.
        DataError: the data are not those that the run was started with.
        CheckpointError: `last.pt` is missing or cannot be read.
    """
    last = find_last(config, run, resume=resume)
    if last is None:
        return None
    saved = load_checkpoint(last)
    check_same_videos(saved, videos, run)
    return saved


def find_last(config: RunSettings, run: RunFolder, *, resume: bool) -> Path | None:
    """Check that the folder may be written, and return the path of the checkpoint that its run continues from.

    Returns:
        None for a run that starts at its beginning.

    Raises:
        ConfigError: the folder is taken, or holds no run to resume, or one with other settings.
        CheckpointError: `last.pt` is missing, though the run has written checkpoints.
    """
    if not resume:
        run.require_new()
        return None
    run.require_resumable()
    check_resumed_config(config, run.read_config(type(config)), run)
    return run.last if run.last.exists() else None


def claim_folder(
    run: RunFolder,
    config: PretrainConfig | FinetuneConfig,
    videos: VideoList,
    progress: Progress,
    *,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Make the folder, write `config.yaml`, and drop the records of steps that will be done again.

    Args:
        run: the folder.
        config: the settings.
        videos: what the run trains on.
        progress: how far it has come.
        record: further facts for `config.yaml`, beside the settings.

    Raises:
        ConfigError: the folder cannot be written.
    """
    distributed.barrier()
    if distributed.is_main():
        flag, folder = "out", run.root
        try:
            run.root.mkdir(parents=True, exist_ok=True)
            run.write_config(config, {**run_record(videos), **(record or {})})
            flag, folder = "checkpoints", run.checkpoint_folder
            run.checkpoint_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--{flag} {folder}: cannot be written ({error.strerror}); choose another one") from None
        run.forget_after(progress.step)
    distributed.barrier()


def check_same_videos(saved: RunState, videos: VideoList, run: RunFolder) -> None:
    """Refuse to continue on another number of videos, which would change the order of all of them.

    Raises:
        DataError: with both numbers and the remedy.
    """
    before, now = saved.data["num_videos"], len(videos.videos)
    if before != now:
        raise DataError(
            f"{videos.root}: {now} training videos, but the run in {run.root} was started with {before}; "
            "give its data, or start a new run in another --out"
        )


def run_record(videos: VideoList) -> dict[str, Any]:
    """Return what `config.yaml` says beside the settings."""
    return {**videos.describe(), "root": str(videos.root.resolve()), "versions": versions()}


def warnings_about(config: PretrainConfig, videos: VideoList) -> list[str]:
    """Return what looks unwise about a run, one sentence each."""
    found = videos.warnings()
    num_videos = len(videos.videos)
    batch, queue = config.optim.batch_size, config.method.queue_size or 0
    if batch > num_videos:
        found.append(
            f"--optim.batch_size {batch}: more than the {num_videos} videos; each step sees all of them, "
            f"choose {num_videos} or less"
        )
    if queue > QUEUE_WARNING_SHARE * num_videos:
        found.append(
            f"--method.queue_size {queue}: more than a quarter of the {num_videos} videos, so it often holds a video's "
            f"own old key as a false negative; the paper's share is {published_queue_sizes(num_videos)[0]}"
        )
    return found
