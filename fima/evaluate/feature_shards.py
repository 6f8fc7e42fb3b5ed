"""Rows of features of some videos, as a file of the cache."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fima.errors import DataError
from fima.evaluate.extract import VideoRows
from fima.files.atomic import written_whole
from fima.files.state import file_state


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


def write_shard(folder: Path, found: Found) -> Path:
    """Write rows in one piece, and return the file; videos without any are tried again the next time."""
    videos = {file: rows for file, rows in found.items() if isinstance(rows, VideoRows)}
    rows = [video.rows for video in videos.values()]
    tensors = {
        "rows": torch.cat(rows) if rows else torch.zeros(0, 1, 1),
        "seconds": torch.cat([torch.zeros(0, 2, dtype=torch.float64), *(video.seconds for video in videos.values())]),
        "counts": torch.tensor([len(each) for each in rows], dtype=torch.int64),
    }
    record = {"files": list(videos)}
    path = folder / f"{digest(record)}.safetensors"
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"videos": json.dumps(record)})
    return path


def read_shard(path: Path) -> dict[FileState, VideoRows]:
    """Return what a file of the cache holds, mapped into memory; SafetensorError or OSError where it cannot be read."""
    with safe_open(path, framework="pt") as stored:
        record = json.loads(stored.metadata()["videos"])
        rows, seconds, counts = (stored.get_tensor(name) for name in ("rows", "seconds", "counts"))
    parts = (torch.split(each, counts.tolist()) for each in (rows, seconds))
    return {
        FileState(*file): VideoRows(index=index, rows=own, seconds=own_seconds)
        for index, (file, own, own_seconds) in enumerate(zip(record["files"], *parts, strict=True))
    }


def digest(content: object) -> str:
    """Return the first 32 hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
