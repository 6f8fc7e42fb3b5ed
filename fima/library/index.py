"""The index of a folder of videos: the header of every file, read once, kept outside the folder, held as arrays."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fima.data.packed_lists import PathTable
from fima.data.workers.killable_pool import available_cores
from fima.errors import DataError
from fima.library.index_file import Progress, open_index_file, read_packed, update_index_file, write_packed

HEADER_SECONDS = 20.0
DECODE_SECONDS = 600.0
ROWS_AT_ONCE = 4096
ARRAYS = {
    "size": np.int64,
    "num_frames": np.int64,
    "fps": np.float32,
    "width": np.int32,
    "height": np.int32,
    "duration_seconds": np.float32,
    "rotation": np.int16,
    "interlaced": np.bool_,
}
NAMES = ("codec", "pixel_format")
PATHS, PATH_ENDS, TEXT = "paths", "path_ends", "text"


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """The headers of V videos as arrays (V,), sorted by path. What is not known of a video is 0, or the empty name."""

    root: Path
    """The folder."""
    paths: PathTable
    """The V files, relative to the folder."""
    problems: dict[int, str]
    """Why a video cannot be used, by its place."""
    size: npt.NDArray[np.int64]
    """Bytes of the file."""
    num_frames: npt.NDArray[np.int64]
    """Frames."""
    fps: npt.NDArray[np.float32]
    """Frames per second, on average."""
    width: npt.NDArray[np.int32]
    """Pixels, before any rotation."""
    height: npt.NDArray[np.int32]
    """Pixels, before any rotation."""
    duration_seconds: npt.NDArray[np.float32]
    """Seconds."""
    rotation: npt.NDArray[np.int16]
    """Degrees clockwise."""
    interlaced: npt.NDArray[np.bool_]
    """Whether frames hold two fields each."""
    codec: npt.NDArray[np.uint8]
    """Place of the codec in `names`."""
    pixel_format: npt.NDArray[np.uint8]
    """Place of the pixel format in `names`."""
    names: tuple[str, ...]
    """Codecs and pixel formats; the first is empty."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the arrays and the paths take."""
        arrays = [value for value in vars(self).values() if isinstance(value, np.ndarray)]
        return self.paths.nbytes + sum(array.nbytes for array in arrays)


def default_index_file(root: Path) -> Path:
    """Where the index of a folder is kept when nothing else is said: below $XDG_CACHE_HOME, or else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    real = os.path.realpath(root)
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    return Path(base, "fima", "index", f"{Path(real).name or 'root'}-{digest}.sqlite")


def index_videos(
    root: Path,
    paths: Sequence[Path],
    *,
    file: Path | None = None,
    workers: int | None = None,
    timeout_seconds: float | None = None,
    decode: bool = False,
    progress: Progress = lambda done, total: None,
) -> VideoIndex:
    """Read the headers of videos that are new or changed, and return the index of them all.

    An interrupted call keeps what it has read, and the next one goes on from there. Two processes may do it at once.

    Args:
        root: the folder.
        paths: its videos; others are dropped from the index.
        file: where the index is kept; `default_index_file(root)` if None.
        workers: processes that read; as many as there are cores if None.
        timeout_seconds: time for one file, which is then a problem; 20 s for a header, 600 s for decoding, if None.
        decode: decode every video to its end as well.
        progress: is told how many files are done, of those that must be read.

    Raises:
        DataError: the index cannot be written, or is a file of another kind.
    """
    file = file or default_index_file(root)
    try:
        with closing(open_index_file(file)) as database:
            update_index_file(
                database,
                root,
                paths,
                workers=workers or available_cores(),
                timeout_seconds=timeout_seconds or (DECODE_SECONDS if decode else HEADER_SECONDS),
                decode=decode,
                progress=progress,
            )
            return _load(database, root)
    except sqlite3.Error as error:
        raise _unusable(file, error) from error


def load_index(root: Path, file: Path | None = None) -> VideoIndex:
    """The index of a folder as it was last written.

    Args:
        root: the folder.
        file: where the index is kept; `default_index_file(root)` if None.

    Raises:
        DataError: there is none, or it is a file of another kind.
    """
    file = file or default_index_file(root)
    if not file.is_file():
        raise DataError(f"{file}: no such index; `fima doctor {root}` makes it")
    try:
        with closing(open_index_file(file)) as database:
            return _load(database, root)
    except sqlite3.Error as error:
        raise _unusable(file, error) from error


def _unusable(file: Path, error: sqlite3.Error) -> DataError:
    return DataError(f"{file}: cannot be used as an index ({error}); name another file with --index")


def _load(database: sqlite3.Connection, root: Path) -> VideoIndex:
    with database:
        database.execute("BEGIN IMMEDIATE")
        packed = read_packed(database)
        if not packed:
            packed = _pack(database)
            write_packed(database, packed)
    text = json.loads(packed.pop(TEXT).tobytes())
    return VideoIndex(
        root=root,
        paths=PathTable.from_arrays(packed.pop(PATHS), packed.pop(PATH_ENDS)),
        problems={int(place): reason for place, reason in text["problems"].items()},
        names=tuple(text["names"]),
        **packed,
    )


def _pack(database: sqlite3.Connection) -> dict[str, npt.NDArray[Any]]:
    """The rows as arrays: the columns of `VideoIndex`, the paths, and as JSON what is no array."""
    (num_videos,) = database.execute("SELECT count(*) FROM videos").fetchone()
    arrays: dict[str, npt.NDArray[Any]] = {name: np.zeros(num_videos, dtype=kind) for name, kind in ARRAYS.items()}
    arrays |= {name: np.zeros(num_videos, dtype=np.uint8) for name in NAMES}
    numbers: dict[str, int] = {"": 0}
    problems: dict[int, str] = {}
    columns = [f"coalesce({name}, {'0' if name in ARRAYS else repr('')})" for name in arrays]
    cursor = database.execute(f"SELECT CAST(path AS BLOB), problem, {', '.join(columns)} FROM videos ORDER BY path")

    def paths() -> Iterator[bytes]:
        first = 0
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            names, reasons, *values = zip(*rows, strict=True)
            for name, column in zip(arrays, values, strict=True):
                numbered = [numbers.setdefault(text, len(numbers)) for text in column] if name in NAMES else column
                arrays[name][first : first + len(rows)] = numbered
            problems.update({first + place: reason for place, reason in enumerate(reasons) if reason is not None})
            first += len(rows)
            yield from names

    content, ends = PathTable(paths()).arrays()
    text = json.dumps({"problems": problems, "names": list(numbers)}).encode()
    return arrays | {PATHS: content, PATH_ENDS: ends, TEXT: np.frombuffer(text, dtype=np.uint8)}
