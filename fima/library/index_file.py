"""The SQLite file that holds the index of a folder of videos.

The table `videos` has one row a video, and anything that reads SQLite can read it:

    path                   relative to the folder, TEXT; a BLOB where the name is not UTF-8
    size, mtime_ns         of the file when its header was read; a file that changes is read again
    problem                why the file cannot be used; NULL where nothing is wrong with it
    decoded                what decoding the whole file came to: 'ok' or a reason; NULL where that was not tried
    num_frames, …          the fields of `VideoHeader`, NULL where there is a problem

The table `packed` holds the same once more as arrays, which load ten times as fast. Any change of `videos` empties it.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fima.data.decode.header import VideoHeader, read_header
from fima.data.decode.video import VideoReader
from fima.data.packed_lists import relative_name
from fima.data.workers.killable_pool import Failed, run_isolated
from fima.errors import DataError, VideoError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x46494D41
COMMIT_SECONDS = 1.0
BUSY_SECONDS = 120.0
HEADERS_AT_ONCE = 16
HEADER_FIELDS = tuple(field.name for field in fields(VideoHeader))
COLUMNS = ("path", "size", "mtime_ns", "problem", "decoded", *HEADER_FIELDS)

Progress = Callable[[int, int], None]
"""Is told how many files are done, of how many."""


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What reading one file came to."""

    header: VideoHeader | None = None
    problem: str | None = None
    decoded: str | None = None


def open_index_file(file: Path) -> sqlite3.Connection:
    """Open the database, and make its table where there is none of this version.

    Raises:
        DataError: the folder cannot be made, or the file belongs to another program.
        sqlite3.Error: the file is no database, or cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{file.parent}: cannot be made ({error.strerror}); name another file with --index") from error
    database = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        with database:
            database.execute("BEGIN IMMEDIATE")
            (kind,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            (num_tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if num_tables and kind != APPLICATION_ID:
                raise DataError(f"{file}: a database of another program; name another file with --index")
            if not num_tables or version != SCHEMA_VERSION:
                database.execute("DROP TABLE IF EXISTS videos")
                database.execute("DROP TABLE IF EXISTS packed")
                database.execute(f"CREATE TABLE videos ({', '.join(COLUMNS)}, PRIMARY KEY (path)) WITHOUT ROWID")
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            database.execute("CREATE TABLE IF NOT EXISTS packed (name TEXT PRIMARY KEY, npy BLOB)")
            for change in ("INSERT", "UPDATE", "DELETE"):
                action = f"AFTER {change} ON videos BEGIN DELETE FROM packed; END"
                database.execute(f"CREATE TRIGGER IF NOT EXISTS unpack_after_{change.lower()} {action}")
    except BaseException:
        database.close()
        raise
    return database


def update_index_file(
    database: sqlite3.Connection,
    root: Path,
    paths: Sequence[Path],
    *,
    workers: int,
    timeout_seconds: float,
    decode: bool,
    progress: Progress,
) -> None:
    """Read the files that are new, changed, or could not be read before; keep the rows as they come.

    Args:
        database: from `open_index_file`.
        root: the folder.
        paths: its videos; rows of others are dropped.
        workers: processes that read.
        timeout_seconds: time for one file.
        decode: decode every file to its end, unless that was done before.
        progress: is told how many files are done.
    """
    done_before = "decoded IS NOT NULL" if decode else "problem IS NULL OR decoded IS NOT NULL"
    rows = database.execute(f"SELECT path, CASE WHEN {done_before} THEN size END, mtime_ns FROM videos")
    known = {path: (size, mtime_ns) for path, size, mtime_ns in rows}
    present = {_key(relative_name(path, root)): path for path in paths}
    states = {key: _state(path) for key, path in present.items()}
    todo = [key for key in present if known.get(key) != states[key]]
    with database:
        database.execute("BEGIN IMMEDIATE")
        gone = [(key,) for key in known.keys() - present.keys()]
        database.executemany("DELETE FROM videos WHERE path = ?", gone)
    outcomes = run_isolated(
        _decode if decode else _read,
        [present[key] for key in todo],
        workers=workers,
        timeout_seconds=timeout_seconds,
        items_at_once=1 if decode else HEADERS_AT_ONCE,
    )
    unwritten: list[tuple[object, ...]] = []
    written = time.monotonic()
    try:
        for done, (position, outcome) in enumerate(outcomes, start=1):
            unwritten.append(_row(todo[position], states[todo[position]], outcome))
            if time.monotonic() - written > COMMIT_SECONDS:
                _write(database, unwritten)
                progress(done, len(todo))
                written = time.monotonic()
    finally:
        outcomes.close()
        _write(database, unwritten)
    progress(len(todo), len(todo))


def read_packed(database: sqlite3.Connection) -> dict[str, npt.NDArray[Any]]:
    """The arrays that `write_packed` wrote; none where rows have changed since."""
    rows = database.execute("SELECT name, npy FROM packed")
    return {name: np.load(BytesIO(content), allow_pickle=False) for name, content in rows}


def write_packed(database: sqlite3.Connection, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Keep arrays beside the rows that they were made from, each as an NPY file; in the transaction that read those."""
    for name, array in arrays.items():
        content = BytesIO()
        np.save(content, array, allow_pickle=False)
        database.execute("INSERT OR REPLACE INTO packed VALUES (?, ?)", (name, content.getbuffer()))


def _read(path: Path) -> _Outcome:
    try:
        return _Outcome(header=read_header(path))
    except VideoError as error:
        return _Outcome(problem=error.reason)


def _decode(path: Path) -> _Outcome:
    try:
        header = read_header(path)
        with VideoReader(path) as reader:
            reader.verify()
    except VideoError as error:
        return _Outcome(problem=error.reason, decoded=error.reason)
    return _Outcome(header=header, decoded="ok")


def _row(key: str | bytes, state: tuple[int, int], outcome: _Outcome | Failed) -> tuple[object, ...]:
    if isinstance(outcome, Failed):
        outcome = _Outcome(problem=outcome.reason)
    header = astuple(outcome.header) if outcome.header else (None,) * len(HEADER_FIELDS)
    return (key, *state, outcome.problem, outcome.decoded, *header)


def _write(database: sqlite3.Connection, rows: list[tuple[object, ...]]) -> None:
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(f"INSERT OR REPLACE INTO videos VALUES ({', '.join('?' * len(COLUMNS))})", rows)
    rows.clear()


def _key(name: str) -> str | bytes:
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def _state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; (-1, -1) where the file cannot be asked."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
