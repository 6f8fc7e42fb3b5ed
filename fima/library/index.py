"""The index of a folder of videos: the header of every file, read once, kept in an SQLite file outside the folder.

The table `videos` has one row a video, and anything that reads SQLite can read it:

    path                   relative to the folder, TEXT; a BLOB where the name is not UTF-8
    size, mtime_ns         of the file when its header was read; a file that changes is read again
    problem                why the file cannot be used; NULL where nothing is wrong with it
    decoded                what decoding the whole file came to: `OK`, `FROM_START` or a reason; NULL where not tried
    num_frames, …          the fields of `VideoHeader`, NULL where there is a problem
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from fima.data.decode.header import VideoHeader, read_header
from fima.data.decode.video import VideoReader
from fima.data.layouts.video_list import relative_name
from fima.data.workers.killable_pool import Failed, available_cores, run_isolated
from fima.errors import DataError, VideoError, one_line
from fima.files.state import file_state

SCHEMA_VERSION = 5
APPLICATION_ID = 0x46494D41
HEADER_SECONDS = 20.0
DECODE_SECONDS = 600.0
COMMIT_SECONDS = 1.0
BUSY_SECONDS = 120.0
HEADERS_AT_ONCE = 16
LONGEST_NAME = 40
"""Characters of a folder's name in that of its index: file systems take 255 bytes, and SQLite adds some."""
HEADER_FIELDS = tuple(field.name for field in fields(VideoHeader))
NO_HEADER = (None,) * len(HEADER_FIELDS)
COLUMNS = ("path", "size", "mtime_ns", "problem", "decoded", *HEADER_FIELDS)
OK = "ok"
FROM_START = "ok, but what is called a key frame is none"

Progress = Callable[[int, int], None]
"""Is told how many files are done, of how many."""


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """An open index."""

    root: Path
    database: sqlite3.Connection
    """The table `videos`."""

    def update(
        self,
        paths: Sequence[Path],
        *,
        workers: int | None = None,
        timeout_seconds: float | None = None,
        decode: bool = False,
        drop_others: bool = True,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Read the files that are new, changed, or could not be read before; keep the rows as they come.

        An interrupted call keeps what it has read, and the next one goes on from there. Two processes may do it at
        once. `paths` are all videos of the folder, whose other rows are dropped; or some of them, without
        `drop_others`. A file that takes longer than `timeout_seconds` (20 for a header, 600 for decoding, if None) is a
        problem. `decode` decodes every file to its end as well, unless that was done before. There are as many
        `workers` as cores if None; `progress` is called with the files done, and those to be read.
        """
        done_before = "decoded IS NOT NULL" if decode else "problem IS NULL OR decoded IS NOT NULL"
        rows = self.database.execute(f"SELECT path, CASE WHEN {done_before} THEN size END, mtime_ns FROM videos")
        known = {path: (size, mtime_ns) for path, size, mtime_ns in rows}
        present = {_key(relative_name(path, self.root)): path for path in paths}
        states = {key: _state(path) for key, path in present.items()}
        todo = [key for key in present if known.get(key) != states[key]]
        if drop_others:
            self._write("DELETE FROM videos WHERE path = ?", [(key,) for key in known.keys() - present.keys()])
        outcomes = run_isolated(
            _read,
            [(present[key], decode) for key in todo],
            workers=workers or available_cores(),
            timeout_seconds=timeout_seconds or (DECODE_SECONDS if decode else HEADER_SECONDS),
            items_at_once=1 if decode else HEADERS_AT_ONCE,
        )
        insert = f"INSERT OR REPLACE INTO videos VALUES ({', '.join('?' * len(COLUMNS))})"
        unwritten: list[tuple[object, ...]] = []
        written = time.monotonic()
        try:
            for done, (position, outcome) in enumerate(outcomes, start=1):
                found = (outcome.reason, None, *NO_HEADER) if isinstance(outcome, Failed) else outcome
                # A reason may name a picture, whose name may be no text that SQLite takes.
                found = tuple(one_line(value) if isinstance(value, str) else value for value in found)
                unwritten.append((todo[position], *states[todo[position]], *found))
                if time.monotonic() - written > COMMIT_SECONDS:
                    self._write(insert, unwritten)
                    progress(done, len(todo))
                    written = time.monotonic()
        finally:
            outcomes.close()
            self._write(insert, unwritten)
        progress(len(todo), len(todo))

    def lengths(self) -> dict[str, tuple[int, float]]:
        """Frames, and frames per second (0 where unknown), of the usable videos by their path relative to the root."""
        rows = self.database.execute("SELECT path, num_frames, fps FROM videos WHERE problem ISNULL ORDER BY path")
        return {os.fsdecode(path): (num_frames, fps) for path, num_frames, fps in rows}

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        with self.database:
            self.database.execute("BEGIN IMMEDIATE")
            self.database.executemany(statement, rows)
        rows.clear()


@contextmanager
def open_index(root: Path, file: Path | None = None) -> Iterator[VideoIndex]:
    """Open the index of a folder, or the index in `file`, and make it where there is none of this version.

    Raises DataError where it cannot be written, or is a file of another kind.
    """
    file = file or default_index_file(root)
    try:
        with closing(_database(file)) as database:
            yield VideoIndex(root=root, database=database)
    except sqlite3.Error as error:
        raise DataError(f"{file}: cannot be used as an index ({error}); name another file with --index") from error


def default_index_file(root: Path) -> Path:
    """Where the index of a folder is kept when nothing else is said: below $XDG_CACHE_HOME, or else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    real = os.path.realpath(root)
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    name = Path(real).name[:LONGEST_NAME] or "root"
    return Path(base, "fima", "index", f"{name}-{digest}.sqlite")


def _database(file: Path) -> sqlite3.Connection:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{file.parent}: cannot be made ({error.strerror}); name another file with --index") from error
    database = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        database.row_factory = sqlite3.Row
        with database:
            database.execute("BEGIN IMMEDIATE")
            (kind,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if tables and kind != APPLICATION_ID:
                raise DataError(f"{file}: a database of another program; name another file with --index")
            if not tables or version != SCHEMA_VERSION:
                for name in tables:
                    database.execute(f"DROP TABLE {name}")
                database.execute(f"CREATE TABLE videos ({', '.join(COLUMNS)}, PRIMARY KEY (path)) WITHOUT ROWID")
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        database.close()
        raise
    return database


def _read(item: tuple[Path, bool]) -> tuple[object, ...]:
    """The problem of a file, what decoding came to where that is wanted, and the header."""
    path, decode = item
    decoded = None
    try:
        header = read_header(path)
        if decode:
            with VideoReader(path) as reader:
                decoded = OK if reader.verify() else FROM_START
    except VideoError as error:
        return error.reason, error.reason if decode else None, *NO_HEADER
    return None, decoded, *astuple(header)


def _key(name: str) -> str | bytes:
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def _state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; (-1, -1) where the file cannot be asked."""
    try:
        return file_state(path)
    except OSError:
        return -1, -1
