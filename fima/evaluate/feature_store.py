"""Rows of features, computed once for every video: by all processes together, kept in memory and in a cache."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fima.data.datasets import VideoList
from fima.data.decode.limits import DecodeLimits
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.errors import DataError
from fima.evaluate.extract import Resources, VideoRows, extract_rows
from fima.evaluate.features import Features, FeatureSource
from fima.files.atomic import written_whole
from fima.torch_tools.distributed import gather_objects, gather_rows, is_main, rank, world_size

FORMAT_VERSION = 3
SHARD_VIDEOS = 200
"""Videos per file of the cache and process: a crash loses at most so many, an interrupt none that is done."""

Per = Literal["clip", "video", "second"]


@dataclass(frozen=True)
class FileState:
    """A file as it was when its features were extracted."""

    path: str
    """Absolute path."""
    num_bytes: int
    """Its size."""
    modified_ns: int
    """When it was last written to."""


@dataclass(kw_only=True)
class _Shard:
    """Rows of some videos, and why others have none."""

    videos: dict[FileState, VideoRows] = field(default_factory=dict)
    undecodable: dict[FileState, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.videos) + len(self.undecodable)

    def tensors(self, num_crops: int, size: int) -> dict[str, Tensor]:
        """The rows (N, crops, C) of all videos, from when to when they are (N, 2), and their number in each video."""
        videos = self.videos.values()
        return {
            "rows": torch.cat([torch.zeros(0, num_crops, size), *(video.rows.float() for video in videos)]),
            "seconds": torch.cat([torch.zeros(0, 2, dtype=torch.float64), *(video.seconds for video in videos)]),
            "counts": torch.tensor([len(video.rows) for video in videos], dtype=torch.int64),
        }

    def gathered(self) -> "_Shard":
        """The shards of all processes as one."""
        if world_size() == 1:
            return self
        shape = max(gather_objects([tuple(video.rows.shape[1:]) for video in self.videos.values()]), default=(1, 1))
        tensors = {name: gather_rows(tensor) for name, tensor in self.tensors(*shape).items()}
        return _Shard(
            videos=dict(_unpacked(gather_objects(list(self.videos)), tensors)),
            undecodable=dict(gather_objects(list(self.undecodable.items()))),
        )

    def write(self, folder: Path, limits: DecodeLimits) -> None:
        """Write in one piece: a reader finds the whole file or none."""
        record = {
            "files": [astuple(file) for file in self.videos],
            "undecodable": [(astuple(file), reason) for file, reason in self.undecodable.items()],
            "limits": asdict(limits),
        }
        shape = next((video.rows.shape[1:] for video in self.videos.values()), (1, 1))
        with written_whole(folder / f"{_digest(record)}.safetensors") as temporary:
            save_file(self.tensors(*shape), temporary, metadata={"videos": json.dumps(record)})


class FeatureStore:
    """Features by video, so that lists that share videos, such as the splits of a data set, share their features.

    The cache holds the features of single videos, under the source's name, the settings, and path, size and
    modification time of the file.

    Args:
        source: what turns clips into features.
        settings: how clips are cut out of the videos.
        resources: device, batch size, processes that decode, limits.
        per: what has rows of its own: evenly spread clips, the whole video (their mean), or every second.
        cache: folder of cached features; None: no cache.
        report: called in the main process with the videos extracted so far and those to extract.
    """

    def __init__(
        self,
        source: FeatureSource,
        settings: ClipSettings,
        resources: Resources,
        *,
        per: Per = "clip",
        cache: Path | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        self.source = source
        self.settings = settings
        self.resources = resources
        self.per = per
        key = {"version": FORMAT_VERSION, "source": source.name, "settings": asdict(settings), "per": per}
        self.folder = None if cache is None else cache / _digest(key)
        self.report = report
        self._states: dict[Path, FileState] = {}
        self._found = _Shard()

    def fill(self, paths: Iterable[Path]) -> int:
        """Extract the features of the videos that are neither here nor in the cache.

        With several processes, all of them call it with the same paths; each extracts its share, and the main one keeps
        everything.

        Returns:
            How many were extracted.

        Raises:
            DataError: a file that cannot be read.
        """
        paths = list(paths)
        # Looked at once: a file that changes meanwhile is still the one whose features are here.
        self._states |= {path: file_state(path) for path in dict.fromkeys(paths) if path not in self._states}
        wanted = list(dict.fromkeys(self._states[path] for path in paths))
        if is_main() and self.folder is not None:
            self._read_cache(self.folder, wanted)
        places = [place for place, file in enumerate(wanted) if not self._has(file)]
        # The main process decides: another one sees another cache where the folder is not shared.
        places = gather_objects(places if is_main() else [])
        self._extract([wanted[place] for place in places])
        return len(places)

    def rows(self, path: Path) -> VideoRows | str:
        """Return the rows of a video that was filled in, or why it has none; in the main process."""
        file = self._states[path]
        return self._found.videos[file] if file in self._found.videos else self._found.undecodable[file]

    def read(self, videos: VideoList) -> Features:
        """Return the features of a list that was filled in, in the main process.

        Raises:
            DataError: not one of its videos can be decoded.
        """
        found, labels, paths, undecodable = [], [], [], []
        for place, video in enumerate(videos.videos):
            rows = self.rows(video.path)
            if isinstance(rows, str):
                undecodable.append(SkippedVideo(path=str(video.path), reason=rows, epoch=0, index=place))
                continue
            found.append(rows.rows.flatten(0, 1))
            labels.append(-1 if video.label is None else video.label)
            paths.append(str(video.path))
        if not found:
            first = undecodable[0]
            raise DataError(
                f"{videos.root}: none of {len(undecodable)} videos can be decoded; {first.path}: {first.reason}"
            )
        return Features(
            pooled=torch.stack(found),
            labels=torch.tensor(labels),
            paths=paths,
            undecodable=undecodable,
            parts=self.source.parts,
        )

    def _has(self, file: FileState) -> bool:
        return file in self._found.videos or file in self._found.undecodable

    def _extract(self, files: Sequence[FileState]) -> None:
        """Extract each file in one process; all of them meet after every shard."""
        own = files[rank() :: world_size()]
        paths, per_second = [Path(file.path) for file in own], self.per == "second"
        items = extract_rows(paths, self.source.pool, self.settings, self.resources, per_second=per_second)
        most = -(-len(files) // world_size())
        for start in range(0, most, SHARD_VIDEOS):
            shard = _Shard()
            try:
                self._fill_shard(shard, islice(items, SHARD_VIDEOS), own, num_before=start, num_all=len(files))
            except BaseException:
                if self.folder is not None and len(shard):
                    shard.write(self.folder, self.resources.limits)
                raise
            shard = shard.gathered()
            if is_main():
                self._found.videos |= shard.videos
                self._found.undecodable |= shard.undecodable
                if self.folder is not None:
                    shard.write(self.folder, self.resources.limits)

    def _fill_shard(
        self,
        shard: _Shard,
        items: Iterable[VideoRows | SkippedVideo],
        files: Sequence[FileState],
        *,
        num_before: int,
        num_all: int,
    ) -> None:
        for item in items:
            if isinstance(item, SkippedVideo):
                shard.undecodable[files[item.index]] = item.reason
            else:
                shard.videos[files[item.index]] = item.whole if self.per == "video" else item
            if self.report is not None and is_main():
                self.report(min(num_all, (num_before + len(shard)) * world_size()), num_all)

    def _read_cache(self, folder: Path, wanted: Sequence[FileState]) -> None:
        """Take what is wanted out of the cache; a file of it that cannot be read counts as not there."""
        missing = {file for file in wanted if not self._has(file)}
        for path in sorted(folder.glob("*.safetensors")) if missing else []:
            try:
                with safe_open(path, framework="pt") as stored:
                    record = json.loads(stored.metadata()["videos"])
                    files = [_parsed(file) for file in record["files"]]
                    if not missing.isdisjoint(files):
                        tensors = {name: stored.get_tensor(name) for name in ("rows", "seconds", "counts")}
                        videos = _unpacked(files, tensors)
                        self._found.videos |= {file: rows for file, rows in videos if file in missing}
            except (SafetensorError, OSError):
                continue
            # What was too large or too slow for one call may not be for another.
            own = record["undecodable"] if record.get("limits") == asdict(self.resources.limits) else []
            undecodable = ((_parsed(file), reason) for file, reason in own)
            self._found.undecodable |= {file: reason for file, reason in undecodable if file in missing}


def _unpacked(files: Sequence[FileState], tensors: Mapping[str, Tensor]) -> Iterator[tuple[FileState, VideoRows]]:
    """The rows of each file out of the tensors of a shard."""
    counts = tensors["counts"].tolist()
    parts = (torch.split(tensors[name], counts) for name in ("rows", "seconds"))
    for index, (file, rows, seconds) in enumerate(zip(files, *parts, strict=True)):
        yield file, VideoRows(index=index, rows=rows, seconds=seconds)


def file_state(path: Path) -> FileState:
    """Return what identifies a file's present content.

    Raises:
        DataError: it cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return FileState(str(path.absolute()), status.st_size, status.st_mtime_ns)


def _parsed(fields: Sequence[Any]) -> FileState:
    path, num_bytes, modified_ns = fields
    return FileState(path, num_bytes, modified_ns)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def extract_features(
    source: FeatureSource,
    videos: VideoList,
    settings: ClipSettings,
    *,
    device: torch.device,
    workers: int = 0,
    cache: Path | None = None,
) -> Features:
    """Extract the features of one list of videos in one process, or read them from the cache; see `FeatureStore`.

    Raises:
        DataError: not one video can be decoded.
    """
    store = FeatureStore(source, settings, Resources(device=device, workers=workers), cache=cache)
    store.fill(video.path for video in videos.videos)
    return store.read(videos)
