"""Rows of features of some videos, as a file of the cache."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fima.errors import DataError
from fima.evaluate.extract import VideoRows
from fima.files.atomic import written_whole
from fima.files.state import file_state
from fima.torch_tools.distributed import gather_objects, gather_rows, world_size


class FileState(NamedTuple):
    """A file as it was when its features were extracted."""

    path: str
    num_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """What identifies a file's present content. Raises DataError where it cannot be read."""
        try:
            return cls(str(path.absolute()), *file_state(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None


Found = dict[FileState, VideoRows | str]
"""The rows of some videos, and why others have none."""


def gathered(found: Found) -> Found:
    """Return what all processes have found."""
    if world_size() == 1:
        return found
    videos, undecodable = _by_outcome(found)
    # A process that has no video must send rows of the same kind.
    kinds = gather_objects([(tuple(video.rows.shape[1:]), video.rows.dtype) for video in videos.values()][:1])
    shape, dtype = kinds[0] if kinds else ((1, 1), torch.float32)
    tensors = {name: gather_rows(tensor) for name, tensor in _tensors(videos, shape, dtype).items()}
    return {**dict(_unpacked(gather_objects(list(videos)), tensors)), **dict(gather_objects(list(undecodable.items())))}


def write_shard(folder: Path, found: Found) -> Path:
    """Write rows in one piece, and return the file: a reader finds all of it or none.

    Videos without rows are tried again the next time: a disk may have been away, or memory short.
    """
    videos, _ = _by_outcome(found)
    record = {"files": list(videos)}
    path = folder / f"{digest(record)}.safetensors"
    with written_whole(path) as temporary:
        save_file(_tensors(videos), temporary, metadata={"videos": json.dumps(record)})
    return path


def read_shard(path: Path) -> dict[FileState, VideoRows]:
    """Return what a file of the cache holds; rows are read from the disk where they are used.

    Raises:
        SafetensorError: it is damaged.
        OSError: it cannot be read.
    """
    with safe_open(path, framework="pt") as stored:
        record = json.loads(stored.metadata()["videos"])
        tensors = {name: stored.get_tensor(name) for name in ("rows", "seconds", "counts")}
    return dict(_unpacked([FileState(*file) for file in record["files"]], tensors))


def _by_outcome(found: Found) -> tuple[dict[FileState, VideoRows], dict[FileState, str]]:
    videos = {file: rows for file, rows in found.items() if isinstance(rows, VideoRows)}
    return videos, {file: reason for file, reason in found.items() if isinstance(reason, str)}


def _tensors(
    videos: Mapping[FileState, VideoRows], shape: Sequence[int] = (1, 1), dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The rows (N, *shape) of all videos, from when to when they are (N, 2), and their number in each video."""
    rows = [video.rows for video in videos.values()]
    return {
        "rows": torch.cat(rows) if rows else torch.zeros(0, *shape, dtype=dtype),
        "seconds": torch.cat([torch.zeros(0, 2, dtype=torch.float64), *(video.seconds for video in videos.values())]),
        "counts": torch.tensor([len(each) for each in rows], dtype=torch.int64),
    }


def _unpacked(files: Sequence[FileState], tensors: Mapping[str, Tensor]) -> Iterator[tuple[FileState, VideoRows]]:
    """The rows of each file out of the tensors of a shard."""
    counts = tensors["counts"].tolist()
    parts = (torch.split(tensors[name], counts) for name in ("rows", "seconds"))
    for index, (file, rows, seconds) in enumerate(zip(files, *parts, strict=True)):
        yield file, VideoRows(index=index, rows=rows, seconds=seconds)


def digest(content: object) -> str:
    """Return the first 32 hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
