"""Rewriting a folder of videos: in parallel, to be continued after an interrupt, list files and all."""

import errno
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fima.config.checks import as_flag
from fima.data.datasets import list_videos
from fima.data.layouts.files import PREPARE_RECORD
from fima.data.layouts.rows import read_columns, read_rows
from fima.data.layouts.video_list import counted, relative_name
from fima.data.workers.killable_pool import Failed, run_isolated
from fima.errors import ConfigError, DataError, VideoError
from fima.files.atomic import remove_leftovers, write_file, written_whole
from fima.files.jsonl import keep_lines, read_lines
from fima.files.lock import FolderLock
from fima.files.state import file_state
from fima.library.index import Progress, VideoIndex
from fima.library.transcode import TranscodeSettings, target_size, transcode

BITS_PER_PIXEL = 0.5
"""Upper end of what real clips took at crf 20 (0.18 to 0.52; very grainy ones 0.9); six steps of crf halve it."""
BITS_PER_PIXEL_CRF = 20
CRF_STEPS_PER_HALVING = 6


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to rewrite."""

    source: Path
    target: Path
    settings: TranscodeSettings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What became of a folder."""

    num_written: int
    num_done_before: int
    num_lists: int
    failures: dict[str, str]
    """Why a video was not rewritten, or a list not copied, by its name relative to the source folder."""
    left_over: list[str]
    """Files in the target folder that are of no video any more: it is gone, or its file has another name now."""


def plan(source: Path, target: Path, videos: Sequence[Path], settings: TranscodeSettings) -> list[Job]:
    """What to write for each video, relative to `source`: the same place in the tree, the same name, ending in .mp4.

    Names that would be the same keep their ending before the new one.
    """
    # In the name of a folder of pictures, a dot is part of the name.
    # A source that is itself such a folder has no other name.
    own = {path: source.resolve().name if path == Path() else path for path in videos}
    names = {
        path: Path(f"{own[path]}.mp4") if (source / path).is_dir() else path.with_suffix(".mp4") for path in videos
    }
    while crowded := {name for name, number in Counter(names.values()).items() if number > 1}:
        # A longer name may be that of another video.
        names = {path: Path(f"{path}.mp4") if name in crowded else name for path, name in names.items()}
    return [Job(source=source / path, target=target / names[path], settings=settings) for path in videos]


def refuse_to_overwrite(jobs: Sequence[Job], lists: Sequence[Path], target: Path) -> None:
    """Raise ConfigError where a folder that `prepare` has not begun holds a file that it would write."""
    if (target / PREPARE_RECORD).exists():
        return
    written = [*(job.target for job in jobs), *(target / path for path in lists)]
    there = next((path for path in written if path.exists()), None)
    if there is not None:
        raise ConfigError(f"{there}: would be overwritten, and is not of `fima prepare`; choose a new folder")


def estimate_bytes(index: VideoIndex, jobs: Sequence[Job]) -> int:
    """Disk space that the videos take that are not written yet, at the upper end of what was measured."""
    settings = jobs[0].settings
    todo = {relative_name(job.source, index.root) for job in jobs if not job.target.exists()}
    rows = index.database.execute(
        "SELECT path, width, height, pixel_aspect, num_frames FROM videos WHERE problem ISNULL"
    )
    pixels: int = sum(
        num_frames * math.prod(target_size(width, height, settings.short_side, pixel_aspect))
        for path, width, height, pixel_aspect, num_frames in rows
        if os.fsdecode(path) in todo
    )
    quality: float = 2 ** ((BITS_PER_PIXEL_CRF - settings.crf) / CRF_STEPS_PER_HALVING)
    return round(pixels * BITS_PER_PIXEL * quality / 8)


def prepare(
    jobs: Sequence[Job],
    lists: Sequence[Path],
    source: Path,
    target: Path,
    *,
    workers: int,
    timeout_seconds: float,
    progress: Progress,
) -> Prepared:
    """Carry out what `plan` says, but for what was done before, and copy the list files, relative to `source`.

    Every file appears in one piece. `target` gets a record, one JSON object a line, of what was written from what; a
    source that has changed since is written again. `progress` is called with the videos done, and those to do. Raises
    ConfigError where `target` was begun with other settings, DataError where another process writes there, or it cannot
    be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            record = _read_record(target, jobs[0].settings)
            done_before = {str(line["source"]): line for line in record}
            remove_leftovers(target, "**")
            todo = [job for job in jobs if not _is_done(job, done_before.get(relative_name(job.source, source)))]
            failures = _carry_out(todo, source, target, workers, timeout_seconds, progress)
            num_written = len(todo) - len(failures)
            lost = _copy(lists, source, target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error
    known = {str(line["target"]) for line in record} - {relative_name(job.target, target) for job in jobs}
    return Prepared(
        num_written=num_written,
        num_done_before=len(jobs) - len(todo),
        num_lists=len(lists) - len(lost),
        failures=failures | lost,
        left_over=sorted(name for name in known if (target / name).exists()),
    )


def differences(jobs: Sequence[Job], lists: Sequence[Path], source: Path, target: Path) -> list[str]:
    """Say where the rewritten folder, with the copied list files, would be used as other data than its source."""
    notes = []
    tables = [target / path for path in lists if path.suffix.lower() in (".csv", ".tsv")]
    for table in (table for table in tables if "path" in read_columns(table)):
        paths = (Path(fields["path"]) for _, fields in read_rows(table).rows)
        absolute = next((path for path in paths if path.is_absolute()), None)
        if absolute is not None:
            what = f"names absolute paths, such as {absolute}, which still lead to the old files"
            notes.append(f"{table}: {what}; make them relative")
    try:
        before, after = ({video.path for video in list_videos(root, "test").videos} for root in (source, target))
    except DataError:  # without labels
        return notes
    target_of = {job.source: job.target for job in jobs}
    if differing := {target_of.get(path, path) for path in before} ^ after:
        example = min(differing).relative_to(target) if min(differing).is_relative_to(target) else min(differing)
        notes.append(
            f"{target}: its test split is not that of {source}: {counted(len(differing), 'video')}, such as {example}, "
            "in one of them; what was trained on the one may have seen test videos of the other"
        )
    return notes


def _carry_out(
    todo: Sequence[Job], source: Path, target: Path, workers: int, timeout_seconds: float, progress: Progress
) -> dict[str, str]:
    failures: dict[str, str] = {}
    outcomes = run_isolated(_transcode_whole, todo, workers=workers, timeout_seconds=timeout_seconds)
    try:
        with (target / PREPARE_RECORD).open("a", encoding="utf-8") as record:
            for done, (position, outcome) in enumerate(outcomes, start=1):
                job = todo[position]
                name = relative_name(job.source, source)
                if isinstance(outcome, Failed):
                    failures[name] = outcome.reason
                    if "no space left" in outcome.reason:
                        raise DataError(
                            f"{target}: the disk is full; the videos that are finished stay: make space and repeat the "
                            "command to go on"
                        )
                else:
                    line = {"source": name, "target": relative_name(job.target, target), **outcome}
                    record.write(json.dumps(line) + "\n")
                    record.flush()
                progress(done, len(todo))
    finally:
        outcomes.close()
        remove_leftovers(target, "**")
    return failures


def _copy(lists: Sequence[Path], source: Path, target: Path) -> dict[str, str]:
    """Copy the list files; return why one cannot be read, such as a link to nothing."""
    failures = {}
    for path in lists:
        try:
            content = (source / path).read_bytes()
        except OSError as error:
            failures[str(path)] = f"cannot be read ({error.strerror})"
        else:
            write_file(target / path, content)
    return failures


def _transcode_whole(job: Job) -> dict[str, int] | Failed:
    """Rewrite a video; return the state of the source before, which may change meanwhile, and what was written."""
    try:
        before = _state(job.source)
        with written_whole(job.target, kind=None) as temporary:
            num_frames = transcode(job.source, temporary, job.settings)
        return {**before, "num_frames": num_frames, "num_bytes": job.target.stat().st_size}
    except VideoError as error:
        return Failed(error.reason)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Failed(f"cannot be rewritten ({'no space left on the disk' if is_full else error.strerror})")


def _state(path: Path) -> dict[str, int]:
    return dict(zip(("source_bytes", "source_mtime_ns"), file_state(path), strict=True))


def _is_done(job: Job, line: dict[str, object] | None) -> bool:
    if line is None:
        return False
    try:
        return _state(job.source).items() <= line.items() and job.target.stat().st_size == line["num_bytes"]
    except OSError:
        return False


def _read_record(target: Path, settings: TranscodeSettings) -> list[dict[str, object]]:
    """Lines of the record, oldest first; the record is begun where there is none."""
    file = target / PREPARE_RECORD
    if not file.exists():
        write_file(file, json.dumps({"settings": asdict(settings)}) + "\n")
    lines = read_lines(file)
    if not lines or "settings" not in lines[0]:
        raise ConfigError(f"{file}: its first line, the settings, is lost; choose another folder, or delete this one")
    if lines[0]["settings"] != asdict(settings):
        raise ConfigError(
            f"{target}: begun with {_flags(lines[0]['settings'])}, now asked for {_flags(asdict(settings))}; "
            "give the former to go on, or choose another folder"
        )
    keep_lines(file, lambda line: True)  # but for one that an interrupt cut off: its video is written again
    return lines[1:]


def _flags(settings: object) -> str:
    """Settings as they stand on a command line."""
    if not isinstance(settings, dict):
        return "other settings"
    return " ".join(f"{as_flag(name)} {value}" for name, value in settings.items())


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keeps a second process out of the folder; the lock ends with the process, however that ends."""
    lock = FolderLock(target)
    try:
        lock.take()
    except ConfigError:
        raise DataError(f"{target}: another `fima prepare` is writing there; wait until it is done") from None
    try:
        yield
    finally:
        (target / ".lock").unlink(missing_ok=True)
        lock.release()
