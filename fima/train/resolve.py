"""What is decided before the first step: device, queue sizes, the folder, and what deserves a warning."""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from fima.checkpoints.checkpoint import Checkpoint, Progress, RunState, load_checkpoint, versions
from fima.checkpoints.run_folder import RunFolder, check_resumed_config
from fima.config import FinetuneConfig, PretrainConfig
from fima.data.datasets import VideoList
from fima.errors import CheckpointError, ConfigError, DataError
from fima.files.atomic import remove_leftovers
from fima.files.lock import FolderLock
from fima.files.output import mark_output
from fima.recipe import RunSettings
from fima.torch_tools import distributed

State = TypeVar("State", bound=RunState)

QUEUE_WARNING_SHARE = 0.25
FIRST_GPUS_WITH_BFLOAT16 = (8, 0)
PUBLISHED_LARGE_SET_VIDEOS = 200_000
PUBLISHED_LARGE_QUEUE = 65_536
PUBLISHED_LARGE_CELL_QUEUE = 31_360
PUBLISHED_UCF101_QUEUE_SHARE = 2_240 / 9_537


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


def published_queue_sizes(num_videos: int) -> tuple[int, int]:
    """Queue lengths of the published runs, carried over to `num_videos` training videos (METHOD.md, settings).

    Returns:
        Keys in the RGB and the motion queue; cells in the dense queue.
    """
    if num_videos >= PUBLISHED_LARGE_SET_VIDEOS:
        return PUBLISHED_LARGE_QUEUE, PUBLISHED_LARGE_CELL_QUEUE
    return max(1, round(num_videos * PUBLISHED_UCF101_QUEUE_SHARE)), 0


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


def find_start(
    config: PretrainConfig, run: RunFolder, videos: VideoList, *, resume: bool
) -> tuple[Checkpoint | None, Path]:
    """Check that the folder may be written, and return the checkpoint that its run continues from, and its path.

    Returns:
        None in the place of the checkpoint for a run that starts from random weights.

    Raises:
        ConfigError: the folder is taken, or holds no run to resume, or one with other settings.
        DataError: the data are not those that the run was started with.
        CheckpointError: there are checkpoints, but none can be read.
    """
    found = find_last(config, run, load_checkpoint, resume=resume)
    if found is None:
        return None, run.last
    saved, path = found
    check_same_videos(saved, videos, run)
    return saved, path


def find_last(
    config: RunSettings, run: RunFolder, load: Callable[[Path], State], *, resume: bool
) -> tuple[State, Path] | None:
    """Check that the folder may be written, and return the checkpoint that its run continues from, and its path.

    Where `last.pt` is missing, torn or altered, the newest checkpoint before it is taken, and a warning says so.

    Args:
        config: the settings.
        run: the folder.
        load: reads a checkpoint; raises CheckpointError.
        resume: whether there must be a run, or must not be one.

    Returns:
        None for a run that starts at its beginning.

    Raises:
        ConfigError: the folder is taken, or holds no run to resume, or one with other settings.
        CheckpointError: there are checkpoints, but none can be read.
    """
    if not resume:
        run.require_new()
        return None
    run.require_resumable()
    changes = check_resumed_config(config, run.read_config(type(config)), run)
    if changes and distributed.is_main():
        print(f"{run.root}: goes on with {', '.join(changes)}")
    paths, reasons = run.to_resume_from(), []
    for path in paths:
        try:
            saved = load(path)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        if reasons and distributed.is_main():
            print(f"fima: warning: {'; '.join(reasons)}; GOING BACK TO {path}", file=sys.stderr, flush=True)
        return saved, path
    if reasons:
        raise CheckpointError(
            f"{'; '.join(reasons)}; no checkpoint of the run is left: start it again in another --out"
        )
    return None


@contextmanager
def claimed_folder(
    run: RunFolder,
    config: PretrainConfig | FinetuneConfig,
    data: Mapping[str, Any],
    progress: Progress,
    *,
    tested_epoch: int | None = None,
    record: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Hold the folder for this run alone: make it, write `config.yaml`, and drop the records of steps to be done again.

    Args:
        run: the folder.
        config: the settings.
        data: what the run trains on, as `data_record` gives it.
        progress: how far it has come.
        tested_epoch: whole epochs behind the last test on the way; None where no test belongs to the run.
        record: further facts for `config.yaml`, beside the settings.

    Raises:
        ConfigError: the folder cannot be written, or another process is at work in it.
    """
    lock = FolderLock(run.root)
    distributed.barrier()
    try:
        if distributed.is_main():
            flag, folder = "out", run.root
            try:
                mark_output(run.root)
                lock.take()
                run.write_config(config, {**data, "versions": versions(), **(record or {})})
                flag, folder = "checkpoints", run.checkpoint_folder
                run.checkpoint_folder.mkdir(parents=True, exist_ok=True)
                run.forget_after(progress.step, tested_epoch)
            except OSError as error:
                reason = f"cannot be written ({error.strerror})"
                raise ConfigError(f"--{flag} {folder}: {reason}; choose another one") from None
            remove_leftovers(run.root)
            remove_leftovers(run.checkpoint_folder)
        distributed.barrier()
        yield
    finally:
        lock.release()


def check_same_videos(saved: RunState, videos: VideoList, run: RunFolder) -> None:
    """Refuse to continue on other videos, which would change what comes when.

    Raises:
        DataError: with what differs and the remedy.
    """
    before, now = saved.data["num_videos"], len(videos.videos)
    remedy = "give its data, or start a new run in another --out"
    if before != now:
        raise DataError(
            f"{videos.root}: {now} training videos, but the run in {run.root} was started with {before}; {remedy}"
        )
    if saved.data.get("fingerprint") not in (None, fingerprint(videos)):
        raise DataError(
            f"{videos.root}: {now} training videos, as in the run in {run.root}, but not the same ones; {remedy}"
        )


def fingerprint(videos: VideoList) -> str:
    """Return 16 hexadecimal digits that change with the names and the order of the videos, wherever their folder is."""
    folder = f"{videos.root}{os.sep}"
    names = (os.fspath(video.path).removeprefix(folder) for video in videos.videos)
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()[:16]


def data_record(videos: VideoList) -> dict[str, Any]:
    """Return what checkpoints and `config.yaml` say of the videos that a run trains on."""
    return {**videos.describe(), "root": str(videos.root.resolve()), "fingerprint": fingerprint(videos)}


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
