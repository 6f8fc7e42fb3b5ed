"""`fima prepare`: rewrite a folder of videos so that random clips of them decode fast."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.filesize import decimal

from fima.commands.progress import kept_when_interrupted, progress
from fima.config.checks import require, require_least
from fima.data.layouts.files import LIST_SUFFIXES, find_files
from fima.data.layouts.video_list import noted, relative_name
from fima.data.workers.killable_pool import available_cores
from fima.errors import ConfigError, DataError, one_line, warn
from fima.files.output import OutputFile, OutputPath
from fima.library.doctor import why_missing
from fima.library.index import open_index
from fima.library.prepare import Job, differences, estimate_bytes, plan, prepare, refuse_to_overwrite
from fima.library.transcode import TranscodeSettings

EXIT_FAILURES = 1
NAMED_FAILURES = 50
MAX_CRF = 51


@dataclass(frozen=True, kw_only=True)
class PrepareArguments(TranscodeSettings):
    """Rewrite the videos of a folder as small H.264 files with frequent key frames, into another folder.

    Folders, names (except for the extension, .mp4) and list files stay; audio is dropped. A repeated command
    continues where the last one stopped. Exit code: 0 when every video was rewritten, 1 when some were not.
    For example: `fima prepare VIDEOS SMALL --short-side 128`.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VIDEOS")]
    """Folder of videos."""
    target: Annotated[tyro.conf.Positional[OutputPath], tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    workers: int | None = None
    """Processes that encode. None: as many as there are cores."""
    timeout: float = 3600.0
    """Seconds for one video."""
    index: OutputFile | None = None
    """File that remembers what was read of the videos. None: one below $XDG_CACHE_HOME/fima or ~/.cache/fima."""
    check_space: bool = True
    """Refuse to start if the disk is too small for the estimated size."""

    def __post_init__(self) -> None:
        for name, low, high in (("short_side", 16, 16384), ("gop", 1, 1000), ("crf", 0, MAX_CRF)):
            value = getattr(self, name)
            require(low <= value <= high, name, value, f"must be from {low} to {high}")
        require_least(self, workers=1)
        require(self.timeout > 0, "timeout", self.timeout, "must be greater than 0")


def main(arguments: PrepareArguments) -> int:
    """Run the command and return its exit code: 0, or 1 where a video was not rewritten."""
    source, target = arguments.source, arguments.target
    if not source.is_dir():
        what = "not a folder" if source.exists() else "no such folder"
        raise DataError(f"{source}: {what}; give the folder that holds the videos")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: not a folder; name a folder to write to, new or begun before")
    if target.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(target.resolve()):
        raise ConfigError(f"{target}: must not lie in {source}, or the other way round")
    files = find_files(source)
    settings = TranscodeSettings(short_side=arguments.short_side, gop=arguments.gop, crf=arguments.crf)
    jobs = plan(source, target, files.videos, settings)
    lists = [path for path in files.others if path.suffix.lower() in LIST_SUFFIXES]
    refuse_to_overwrite(jobs, lists, target)
    if arguments.check_space:
        _check_space(arguments, jobs)
    with kept_when_interrupted(), progress("rewriting") as report:
        prepared = prepare(
            jobs,
            lists,
            source,
            target,
            workers=arguments.workers or available_cores(),
            timeout_seconds=arguments.timeout,
            progress=report,
        )
    missing = {relative_name(Path(path), source): why_missing(Path(path)) for path in files.missing}
    failures = prepared.failures | missing
    print(
        f"{target}: videos written: {prepared.num_written:,}, done before: {prepared.num_done_before:,}; list files "
        f"copied: {prepared.num_lists:,}; other files, not copied: {len(files.others) - len(lists):,}"
    )
    about = " of videos that have other names or are there no longer"
    for note in noted(prepared.left_over, "file", about, ": they stay; delete those that are not to be trained on"):
        print(f"{target}: {note}")
    for note in files.notes(with_lists=False):
        print(f"{source}: {note}")
    for note in differences(jobs, lists, source, target):
        warn(note)
    _show_failures(failures)
    return EXIT_FAILURES if failures else 0


def _check_space(arguments: PrepareArguments, jobs: Sequence[Job]) -> None:
    with open_index(arguments.source, arguments.index) as index:
        with progress("reading headers") as report:
            index.update([job.source for job in jobs], workers=arguments.workers, progress=report)
        needed = estimate_bytes(index, jobs)
    there = next(folder for folder in (arguments.target, *arguments.target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    print(f"{len(jobs):,} videos, about {decimal(needed)} to write (a high estimate); {decimal(free)} free", flush=True)
    if needed > free:
        raise DataError(
            f"{there}: too little space: about {decimal(needed)} needed, {decimal(free)} free; use another disk, a "
            "smaller --short-side or a larger --crf, or --no-check-space to start anyway"
        )


def _show_failures(failures: Mapping[str, str]) -> None:
    if failures:
        print(f"{len(failures):,} not rewritten (`fima doctor` says what to do):")
    for name, reason in list(failures.items())[:NAMED_FAILURES]:
        print(f"  {one_line(name)}: {reason}")
    if len(failures) > NAMED_FAILURES:
        print(f"  … and {len(failures) - NAMED_FAILURES:,} more; `fima doctor` names them all")
