"""Rows of features, computed once for every video: by all processes together, kept in memory and in a cache."""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.errors import DataError
from fima.evaluate.extract import Resources, VideoRows, extract_rows, told_apart
from fima.evaluate.features import Features, FeatureSource
from fima.files.atomic import written_whole
from fima.files.state import file_state
from fima.torch_tools.distributed import gather_objects, is_main, rank, world_size

FORMAT_VERSION = 4
SHARD_VIDEOS = 200
"""Videos per file of the cache and process: a crash loses at most so many, an interrupt none that is done."""
SHARD_VIDEOS_OF_CELLS = 25
"""The same where a video has a row for every cell, so that memory holds few of them."""
NAMED_VIDEOS = 3
"""Videos that an error names before it counts the others."""

Per = Literal["clip", "video", "second"]


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


@dataclass(eq=False)
class FeatureStore:
    """Features by video, so that lists that share videos, such as the splits of a data set, share their features."""

    source: FeatureSource
    settings: ClipSettings
    resources: Resources
    _: KW_ONLY
    per: Per = "clip"
    """What has rows of its own: evenly spread clips, the whole video (their mean), or every second."""
    cache: Path | None = None
    """Folder of features of single videos, by the source's name, the settings, and path, size and modification time of
    the file; None: no cache."""
    report: Callable[[int, int], None] | None = None
    """Called in the main process with the videos extracted so far and those to extract."""
    states: dict[Path, FileState] = field(default_factory=dict, init=False)
    """Files as they were looked at: one that changes meanwhile is still the one whose features are here."""
    _found: Found = field(default_factory=dict, init=False)

    @cached_property
    def folder(self) -> Path | None:
        """Where the cache has the features of this source and these settings."""
        settings = asdict(self.settings)
        key = {"version": FORMAT_VERSION, "source": self.source.name, "settings": settings, "per": self.per}
        return None if self.cache is None else self.cache / digest(key)

    def fill(self, paths: Iterable[Path]) -> int:
        """Extract the features of the videos that are neither here nor in the cache; see `fill_together`."""
        return fill_together([self], paths)

    def missing(self, files: Sequence[FileState]) -> list[int]:
        """Places of the files that are neither here nor in the cache, in the main process."""
        wanted = set(files) - self._found.keys()
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder is not None and wanted else []:
            # A file of the cache that cannot be read counts as not there.
            with contextlib.suppress(SafetensorError, OSError):
                found = read_shard(path)
                self._found |= {file: found[file] for file in found.keys() & wanted}
        return [place for place, file in enumerate(files) if file not in self._found]

    def keep(self, found: Found) -> None:
        """Take in what was extracted, and write it to the cache; cells stay there and are mapped into memory."""
        if self.folder is not None and found:
            path = write_shard(self.folder, found)
            if self.source.on_disk:
                found = {**found, **read_shard(path)}
        self._found |= found

    def rows(self, path: Path) -> VideoRows | str:
        """Return the rows of a video that was filled in, or why it has none; in the main process."""
        return self._found[self.states[path]]

    def read(self, videos: VideoList) -> Features:
        """Return the features of a list, in the main process; DataError where it has none, or some are not finite."""
        rows, decoded = told_apart(videos, [self.rows(video.path) for video in videos.videos])
        found = [each.rows.flatten(0, 1) for each in rows]
        _check_finite(found, decoded.paths, videos.root)
        return Features(
            # Cells are stacked a batch at a time: together they may be larger than memory.
            pooled=torch.empty(0) if self.source.on_disk else torch.stack(found),
            cells=found if self.source.on_disk else [],
            **vars(decoded),
            parts=self.source.parts,
            depth=self.source.depth,
        )


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


def fill_together(stores: Sequence[FeatureStore], paths: Iterable[Path]) -> int:
    """Extract the features of the videos that any of the stores lacks, each decoded once for all; return their number.

    The stores have the same clip settings; the first one's resources, `per` and `report` hold. With several processes,
    all of them call it with the same paths; each extracts its share, and the main one keeps everything. Raises
    DataError for a file that cannot be read, or no room for the cells.
    """
    states = {path: FileState.of(path) for path in dict.fromkeys(paths)}
    files = list(dict.fromkeys(states.values()))
    lacking: list[tuple[int, list[int]]] = []
    for number, store in enumerate(stores):
        store.states |= states
        if is_main() and (places := store.missing(files)):
            lacking.append((number, places))
    # The main process decides: another one sees another cache where the folder is not shared.
    lacking = gather_objects(lacking)
    wanted = sorted({place for _, places in lacking for place in places})
    _extract([stores[number] for number, _ in lacking], [files[place] for place in wanted])
    return len(wanted)


def _extract(stores: Sequence[FeatureStore], files: Sequence[FileState]) -> None:
    """Extract each file in one process; all of them meet after every shard."""
    if not files:
        return
    first, own = stores[0], files[rank() :: world_size()]
    shapes: list[tuple[int, ...]] = []

    def network(clips: Tensor) -> Tensor:
        found = [store.source.pool(clips) for store in stores]
        shapes[:] = [tuple(each.shape[1:]) for each in found]
        return torch.cat([each.flatten(1) for each in found], dim=1) if len(found) > 1 else found[0].flatten(1)

    paths, per_second = [Path(file.path) for file in own], first.per == "second"
    items = extract_rows(paths, network, first.settings, first.resources, per_second=per_second)
    size = min(SHARD_VIDEOS, SHARD_VIDEOS_OF_CELLS) if any(store.source.on_disk for store in stores) else SHARD_VIDEOS
    for start in range(0, -(-len(files) // world_size()), size):
        shards: list[Found] = [{} for _ in stores]
        try:
            for number, item in enumerate(islice(items, size), start + 1):
                for shard, found in zip(shards, _apart(item, stores, shapes), strict=True):
                    shard[own[item.index]] = found
                if first.report is not None and is_main():
                    first.report(min(len(files), number * world_size()), len(files))
        except BaseException:
            for store, shard in zip(stores, shards, strict=True):
                if store.folder is not None and shard:
                    write_shard(store.folder, shard)
            raise
        for store, shard in zip(stores, shards, strict=True):
            everything = dict(gather_objects(list(shard.items())))
            if is_main():
                _check_room(store, everything, len(files) - start * world_size())
                store.keep(everything)


def _apart(
    item: VideoRows | SkippedVideo, stores: Sequence[FeatureStore], shapes: Sequence[tuple[int, ...]]
) -> Iterator[VideoRows | str]:
    """Yield what each store keeps of a video: its columns, or why there are none."""
    if isinstance(item, SkippedVideo):
        yield from [item.reason] * len(stores)
        return
    item = item.whole if stores[0].per == "video" else item
    parts = torch.split(item.rows, [math.prod(shape) for shape in shapes], dim=-1)
    for store, part, shape in zip(stores, parts, shapes, strict=True):
        rows = part.reshape(*part.shape[:-1], *shape).to(torch.half if store.source.on_disk else torch.float32)
        # A copy, so that the columns of the other stores are not kept with it.
        yield replace(item, rows=rows.clone())


def _check_room(store: FeatureStore, found: Found, num_left: int) -> None:
    """Raise DataError where the disk has no room for the cells of the videos that are left."""
    own = next((video.rows for video in found.values() if isinstance(video, VideoRows)), None)
    if store.folder is None or not store.source.on_disk or own is None:
        return
    store.folder.mkdir(parents=True, exist_ok=True)
    needed, free = own.nbytes * num_left, shutil.disk_usage(store.folder).free
    if needed > free:
        raise DataError(
            f"{store.folder}: the cells of {num_left} videos take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            "free; take a smaller --num-clips, or leave out the protocol attentive"
        )


def _check_finite(found: Sequence[Tensor], paths: Sequence[str], root: Path) -> None:
    """Raise DataError, with the videos, where features are not finite."""
    broken = [path for rows, path in zip(found, paths, strict=True) if not rows.isfinite().all()]
    if broken:
        more = f" and {len(broken) - NAMED_VIDEOS} more" if len(broken) > NAMED_VIDEOS else ""
        raise DataError(
            f"{root}: the encoder gives NaN or infinite features for {', '.join(broken[:NAMED_VIDEOS])}{more}; "
            "check its weights, or leave these videos out of the list"
        )
