"""Rows of features of some videos, as a file of the cache."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fima.data.decode.limits import DecodeLimits
from fima.errors import DataError
from fima.evaluate.extract import VideoRows
from fima.files.atomic import written_whole
from fima.torch_tools.distributed import gather_objects, gather_rows, world_size


@dataclass(frozen=True)
class FileState:
    """A file as it was when its features were extracted."""

    path: str
    num_bytes: int
    modified_ns: int
    """When it was last written to."""


@dataclass(kw_only=True)
class Shard:
    """Rows of some videos, and why others have none."""

    videos: dict[FileState, VideoRows] = field(default_factory=dict)
    undecodable: dict[FileState, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.videos) + len(self.undecodable)

    def tensors(self, *shape: int) -> dict[str, Tensor]:
        """The rows (N, *shape) of all videos, from when to when they are (N, 2), and their number in each video."""
        videos = self.videos.values()
        rows = [video.rows for video in videos]
        return {
            "rows": torch.cat([torch.zeros(0, *shape, dtype=rows[0].dtype if rows else torch.float32), *rows]),
            "seconds": torch.cat([torch.zeros(0, 2, dtype=torch.float64), *(video.seconds for video in videos)]),
            "counts": torch.tensor([len(video.rows) for video in videos], dtype=torch.int64),
        }

    def gathered(self) -> "Shard":
        """The shards of all processes as one."""
        if world_size() == 1:
            return self
        shape = max(gather_objects([tuple(video.rows.shape[1:]) for video in self.videos.values()]), default=(1, 1))
        tensors = {name: gather_rows(tensor) for name, tensor in self.tensors(*shape).items()}
        return Shard(
            videos=dict(_unpacked(gather_objects(list(self.videos)), tensors)),
            undecodable=dict(gather_objects(list(self.undecodable.items()))),
        )

    def write(self, folder: Path, limits: DecodeLimits) -> Path:
        """Write in one piece, and return the file: a reader finds all of it or none."""
        record = {
            "files": [astuple(file) for file in self.videos],
            "undecodable": [(astuple(file), reason) for file, reason in self.undecodable.items()],
            "limits": asdict(limits),
        }
        shape = next((video.rows.shape[1:] for video in self.videos.values()), (1, 1))
        path = folder / f"{digest(record)}.safetensors"
        with written_whole(path) as temporary:
            save_file(self.tensors(*shape), temporary, metadata={"videos": json.dumps(record)})
        return path


def mapped(path: Path) -> tuple[dict[str, Any], Iterator[tuple[FileState, VideoRows]]]:
    """What a file of the cache says of its videos, and their rows, read from the disk where they are used.

    Raises:
        SafetensorError: it is damaged.
        OSError: it cannot be read.
    """
    with safe_open(path, framework="pt") as stored:
        record = json.loads(stored.metadata()["videos"])
        tensors = {name: stored.get_tensor(name) for name in ("rows", "seconds", "counts")}
    return record, _unpacked([parsed(file) for file in record["files"]], tensors)


def _unpacked(files: Sequence[FileState], tensors: Mapping[str, Tensor]) -> Iterator[tuple[FileState, VideoRows]]:
    """The rows of each file out of the tensors of a shard."""
    counts = tensors["counts"].tolist()
    parts = (torch.split(tensors[name], counts) for name in ("rows", "seconds"))
    for index, (file, rows, seconds) in enumerate(zip(files, *parts, strict=True)):
        yield file, VideoRows(index=index, rows=rows, seconds=seconds)


def file_state(path: Path) -> FileState:
    """Return what identifies a file's present content. Raises DataError where it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return FileState(str(path.absolute()), status.st_size, status.st_mtime_ns)


def parsed(fields: Sequence[Any]) -> FileState:
    """Return what a record says of a file."""
    path, num_bytes, modified_ns = fields
    return FileState(path, num_bytes, modified_ns)


def digest(content: object) -> str:
    """Return the first 32 hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
