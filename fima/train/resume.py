"""Where a run begins: anew, at its last checkpoint, or at one of another run; and its folder, held for it alone."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from fima.checkpoints.checkpoint import Checkpoint, Progress, Run, load_checkpoint, versions
from fima.checkpoints.official_checkpoint import load_training_checkpoint
from fima.checkpoints.run_folder import MAY_CHANGE_ON_RESUME, RunFolder, check_resumed_config
from fima.config import FinetuneConfig, PretrainConfig
from fima.config.checks import as_flag
from fima.data.datasets import VideoList
from fima.data.layouts.video_list import counted
from fima.errors import CheckpointError, ConfigError, DataError, warn
from fima.files.atomic import remove_leftovers
from fima.files.lock import FolderLock
from fima.files.output import check_writable, mark_output
from fima.method.queue import VIDEO_IDS
from fima.recipe import RunSettings, flatten
from fima.torch_tools import distributed
from fima.train.task import Task

QUEUES = ("queue_size", "cell_queue_size")
"""Settings of the method that follow from the number of videos where nobody gives them."""


@dataclass(frozen=True, kw_only=True)
class Start(Generic[Run]):
    """Where a run begins; without a checkpoint, with the networks as they are built."""

    progress: Progress = field(default_factory=Progress)
    saved: Run | None = None
    """State of the networks and the optimiser."""
    file: Path | None = None
    """The file that it was read from, for the messages."""


def as_begun(config: RunSettings, run: RunFolder) -> RunSettings:
    """Return the settings of a resumed run, what they leave open being what it was when the run began.

    That is `auto` precision, on any device, and the length of the queues, with any number of videos.
    """
    begun = run.read_config(type(config))
    precision = begun.run.precision if config.run.precision == "auto" else config.run.precision
    found: dict[str, Any] = {"run": dataclasses.replace(config.run, precision=precision)}
    if isinstance(config, PretrainConfig) and isinstance(begun, PretrainConfig):
        lengths = {name: getattr(begun.method, name) for name in QUEUES if getattr(config.method, name) is None}
        found["method"] = dataclasses.replace(config.method, **lengths)
    return dataclasses.replace(config, **found)


def last_checkpoint(config: RunSettings, run: RunFolder, kind: type[Run], videos: VideoList) -> Start[Run]:
    """Return where the run in a folder goes on.

    Where `last.pt` is missing, torn or altered, the newest checkpoint before it is taken, and a warning says so; a run
    that was ended before its first checkpoint begins again. Raises ConfigError for other settings, DataError for other
    videos, and CheckpointError where there are checkpoints but none can be read, or processes read different ones.
    """
    changes = check_resumed_config(config, run.read_config(type(config)), run)
    start, reasons = _newest_readable(run, kind)
    before = versions() if start.saved is None else start.saved.versions
    changes += [
        f"{name} {now} (before: {before[name]})" for name, now in versions().items() if before.get(name, now) != now
    ]
    size, num_processes = config.optim.batch_size, distributed.world_size()
    earlier = run.record().get("processes") or num_processes
    if earlier != num_processes:
        share = f"{counted(size // num_processes, 'video')} of a step (before: {size // earlier}) for its batch norm"
        changes.append(f"processes: {num_processes} (before: {earlier}), each with {share}")
    if changes and distributed.is_main():
        print(f"{run.root}: goes on with {', '.join(changes)}")
    own = None if start.file is None else f"{start.file.name} of step {start.progress.step}"
    found: list[str | None] = distributed.gather_objects([own])
    if len({*found}) > 1:
        named = ", ".join(f"process {rank}: {name or 'none'}" for rank, name in enumerate(found))
        raise CheckpointError(
            f"{run.root}: the processes would go on from different checkpoints ({named}); give an --out, and "
            "--checkpoints, that all of them share"
        )
    if start.saved is None and reasons:
        raise CheckpointError(
            f"{'; '.join(reasons)}; no checkpoint of the run is left: start it again in another --out"
        )
    if start.saved is not None:
        if reasons and distributed.is_main():
            warn(f"{'; '.join(reasons)}; GOING BACK TO {start.file}")
        check_same_videos(start.saved.data, videos, run)
        saved = flatten(start.saved.config)
        if any(saved[flag] != value for flag, value in flatten(config).items() if flag not in MAY_CHANGE_ON_RESUME):
            what = f"is of a run with other settings than that in {run.root}"
            raise CheckpointError(f"{start.file}: {what}; give the --checkpoints of this one")
    if start.progress.step_in_epoch and start.progress.epoch >= config.optim.epochs:
        begun = start.progress.epoch + 1
        what = f"epoch {begun} has begun, whose weights are not those of the epoch before; give {begun} or more"
        raise ConfigError(f"--optim.epochs {config.optim.epochs}: {what}")
    return start


def _newest_readable(run: RunFolder, kind: type[Run]) -> tuple[Start[Run], list[str]]:
    """Where a run goes on, and why not at newer checkpoints."""
    reasons: list[str] = []
    for path in run.to_resume_from():
        try:
            saved = load_checkpoint(path, kind)
        except CheckpointError as error:
            reasons.append(str(error))
        else:
            return Start(progress=saved.progress, saved=saved, file=path), reasons
    return Start(), reasons


def first_progress(config: PretrainConfig, num_videos: int, epoch: int) -> Progress:
    """Return the progress after `epoch` epochs of `num_videos` videos. Raises ConfigError where no epoch is left."""
    if epoch and epoch >= config.optim.epochs:
        raise ConfigError(f"--optim.epochs {config.optim.epochs}: {epoch} are done already; give a larger number")
    return Progress(epoch=epoch, step=epoch * -(-num_videos // config.optim.batch_size))


def start_from(
    path: Path | None, config: PretrainConfig, num_videos: int, *, epoch: int | None = None
) -> Start[Checkpoint]:
    """Return where a new run begins: at a checkpoint of another one, ours or of the authors' program; None: at none.

    Weights, queues and momenta are the checkpoint's, the settings are the new run's. An epoch that the checkpoint had
    begun is begun again. `epoch` counts as done; None takes the checkpoint's, or 0. Raises CheckpointError where the
    file cannot be read, ConfigError where no epoch is left or it was trained with another optimiser.
    """
    if path is None:
        return Start(progress=first_progress(config, num_videos, epoch or 0))
    saved = load_training_checkpoint(path)
    progress = first_progress(config, num_videos, saved.progress.epoch if epoch is None else epoch)
    before, now = saved.config.optim.name, config.optim.name
    if before != now:
        raise ConfigError(
            f"--resume-from {path}: its optimiser is {before}, not {now}; give --optim.name {before}, or start from "
            "its encoder alone with --model.init-from"
        )
    # The videos of its keys are numbered in the list of the other run.
    model = {name: value for name, value in saved.model.items() if not name.endswith(VIDEO_IDS)}
    return Start(progress=progress, saved=dataclasses.replace(saved, model=model), file=path)


def origin_record(resume_from: Path | None, start_epoch: int | None) -> dict[str, Any]:
    """Return what `config.yaml` says of where a new run begins, by `start_from`; nothing of the usual place."""
    given = {"resume_from": resume_from and str(resume_from.resolve()), "start_epoch": start_epoch}
    return {name: value for name, value in given.items() if value is not None}


def recorded_origin(run: RunFolder) -> tuple[Path | None, int | None]:
    """Return where a run began: where it was ended before its first checkpoint, it begins there again."""
    record = run.record()
    return Path(record["resume_from"]) if "resume_from" in record else None, record.get("start_epoch")


@contextmanager
def claimed_folder(
    task: Task[Any], run: RunFolder, data: Mapping[str, Any], progress: Progress, *, resume: bool
) -> Iterator[None]:
    """Hold the folder for this run alone: make it, write `config.yaml`, and drop the records of steps to be done again.

    `data` is what `config.yaml` says of the videos. Raises ConfigError where the folder cannot be written or is in use,
    and where it is to be new and another run has begun there.
    """
    # Two runs may have been given the same folder for their checkpoints.
    lock, apart = FolderLock(run.root), FolderLock(run.checkpoint_folder, "checkpoints")
    distributed.barrier()
    try:
        if distributed.is_main():
            check_writable(run.root, flag="out")
            check_writable(run.checkpoint_folder, flag="checkpoints")
            flag, folder = "checkpoints", run.checkpoint_folder
            try:
                if run.checkpoints is not None and folder.resolve() != run.root.resolve():
                    folder.mkdir(parents=True, exist_ok=True)
                    apart.take()
                flag, folder = "out", run.root
                mark_output(run.root, [])
                lock.take()
                if not resume:  # a run that began at the same moment may have had the folder, and have ended
                    run.refuse_other_run()
                processes = {"processes": distributed.world_size()}
                run.write_config(task.config, {**data, **task.facts, **processes, "versions": versions()})
                run.checkpoint_folder.mkdir(exist_ok=True)
                run.forget_after(progress.step, task.selection.tested_epoch)
            except OSError as error:
                reason = f"cannot be written ({error.strerror})"
                raise ConfigError(f"--{flag} {folder}: {reason}; choose another one") from None
            remove_leftovers(run.root)
            remove_leftovers(run.checkpoint_folder)
        distributed.barrier()
        yield
    finally:
        lock.release()
        apart.release()


def require_one_run(config: PretrainConfig | FinetuneConfig, data: Mapping[str, Any]) -> None:
    """Raise an error where the processes of a run have other settings or other videos, by their `data_record`.

    Each takes its share of what it believes to be the batch, so that nothing else would tell. Raises ConfigError for
    settings that decide what is computed, DataError for the videos.
    """
    may_differ = MAY_CHANGE_ON_RESUME - {"optim.epochs"}
    settings = {flag: value for flag, value in flatten(config).items() if flag not in may_differ}
    videos = (data["num_videos"], data["fingerprint"], data["labels"])
    first, *others = distributed.gather_objects([(settings, videos, data["root"])])
    for number, (own, listed, root) in enumerate(others, start=1):
        for flag, value in own.items():
            if value != first[0][flag]:
                what = f"{as_flag(flag)} {value}: process 0 has {first[0][flag]}"
                raise ConfigError(f"process {number} of the run has {what}; give all processes the same settings")
        if listed != first[1]:
            what = f"{root}: {listed[0]} training videos, not those of process 0 ({first[2]}: {first[1][0]})"
            raise DataError(f"process {number} of the run has {what}; give all processes the same videos")


def check_same_videos(before: Mapping[str, Any], videos: VideoList, run: RunFolder) -> None:
    """Raise DataError where the videos are not those of `before`, a `data_record`: what comes when would change."""
    now = len(videos.videos)
    remedy = "give its data, or start a new run in another --out"
    here = f"{videos.root}: {now} training videos"
    if before["num_videos"] != now:
        raise DataError(f"{here}, but the run in {run.root} was started with {before['num_videos']}; {remedy}")
    if before.get("fingerprint") not in (None, fingerprint(videos)):
        mixed = "" if videos.epoch.is_plain else ", or with other shares, windows or rates"
        raise DataError(f"{here}, as in the run in {run.root}, but not the same ones{mixed}; {remedy}")


def fingerprint(videos: VideoList) -> str:
    """Return 16 hexadecimal digits that change with the names and the order of the videos, wherever their folder is."""
    folder = f"{os.path.abspath(videos.root)}{os.sep}"  # noqa: PTH100 - links stay
    names = (os.path.abspath(video.path).removeprefix(folder) for video in videos.videos)  # noqa: PTH100
    digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape"))
    plan = videos.epoch
    if not plan.is_plain:
        timings = [sorted(timing.items()) for timing in plan.timings]
        digest.update(plan.windows.tobytes() + repr((plan.ends, plan.drawn, *timings)).encode())
    return digest.hexdigest()[:16]


def labels_fingerprint(videos: VideoList) -> str:
    """Return 16 hexadecimal digits that change with the classes of the videos, in their order."""
    return hashlib.sha256(repr([video.label for video in videos.videos]).encode()).hexdigest()[:16]


def data_record(videos: VideoList) -> dict[str, Any]:
    """Return what checkpoints and `config.yaml` say of the videos that a run trains on."""
    table = {} if videos.table is None else {"table": str(videos.table.resolve())}
    digests = {"fingerprint": fingerprint(videos), "labels": labels_fingerprint(videos)}
    return {**videos.describe(), **table, **digests}
