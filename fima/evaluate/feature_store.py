"""Features of every video extracted once: by all processes together, kept in memory and in a cache."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fima.data.datasets import Video, VideoList
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.eval_clips import ClipSettings, build_eval_loader
from fima.data.loader import SkippedVideo
from fima.errors import DataError
from fima.evaluate.features import Features, FeatureSource
from fima.files.atomic import let_others_read
from fima.torch_tools.distributed import gather_objects, gather_rows, is_main, rank, world_size

FORMAT_VERSION = 2
SHARD_VIDEOS = 1000
"""Videos per file of the cache: an interrupted extraction loses at most so many."""
CLIPS_AT_ONCE = 32
"""Clips that the encoder sees at a time, so that memory does not grow with clips per video."""


@dataclass(frozen=True)
class FileState:
    """A file as it was when its features were extracted."""

    path: str
    """Absolute path."""
    num_bytes: int
    """Its size."""
    modified_ns: int
    """When it was last written to."""


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """Features of some videos, and why the others have none."""

    pooled: Tensor
    """(n, num_clips·num_crops, C), float32, on the CPU."""
    files: list[FileState]
    """The n files."""
    undecodable: dict[FileState, str]
    """The reasons of the others."""


class FeatureStore:
    """Features by video, so that lists that share videos, such as the splits of a data set, share their features.

    The cache holds the features of single videos, under the source's name, the settings, and path, size and
    modification time of the file.

    Args:
        source: what turns clips into features.
        settings: how clips are cut out of the videos.
        device: where features are computed.
        batch_size: videos at a time.
        workers: processes that decode, in each process; 0 decodes in this one.
        limits: what a video may take.
        cache: folder of cached features; None: no cache.
        report: called in the main process with the videos extracted so far and those to extract.
    """

    def __init__(
        self,
        source: FeatureSource,
        settings: ClipSettings,
        *,
        device: torch.device,
        batch_size: int = 8,
        workers: int = 0,
        limits: DecodeLimits = USUAL_LIMITS,
        cache: Path | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        self.source = source
        self.settings = settings
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.limits = limits
        self.folder = None if cache is None else cache / _key(source, settings)
        self.report = report
        self._states: dict[Path, FileState] = {}
        self._features: dict[FileState, Tensor] = {}
        self._reasons: dict[FileState, str] = {}

    def fill(self, lists: Sequence[VideoList]) -> None:
        """Extract the features of all videos of some lists that are neither here nor in the cache.

        With several processes, all of them call it with the same lists; each extracts its share, and the main one
        keeps everything.

        Raises:
            DataError: a file that cannot be read.
        """
        found = {video.path: video for videos in lists for video in videos.videos}
        # Looked at once: a file that changes meanwhile is still the one whose features are here.
        self._states |= {path: file_state(path) for path in found if path not in self._states}
        distinct = {self._states[path]: video for path, video in found.items()}
        if is_main() and self.folder is not None:
            self._read_cache(self.folder, distinct)
        places = [place for place, file in enumerate(distinct) if file not in self._features | self._reasons]
        # The main process decides: another one sees another cache where the folder is not shared.
        places = gather_objects(places if is_main() else [])
        everything = list(distinct.items())
        for start in range(0, len(places), SHARD_VIDEOS):
            chunk = [everything[place] for place in places[start : start + SHARD_VIDEOS]]
            shard = self._extract(dict(chunk), lists[0].root, num_before=start, num_all=len(places))
            if is_main():
                self._add(shard)
                if self.folder is not None:
                    _write_shard(self.folder, shard, self.limits)

    def read(self, videos: VideoList) -> Features:
        """Return the features of a list that was filled in, in the main process.

        Raises:
            DataError: not one of its videos can be decoded.
        """
        files = [self._states[video.path] for video in videos.videos]
        chosen = [place for place, file in enumerate(files) if file in self._features]
        undecodable = [
            SkippedVideo(path=str(videos.videos[place].path), reason=self._reasons[file], epoch=0, index=place)
            for place, file in enumerate(files)
            if file in self._reasons
        ]
        if not chosen:
            first = undecodable[0]
            raise DataError(
                f"{videos.root}: none of {len(undecodable)} videos can be decoded; {first.path}: {first.reason}"
            )
        labels = [videos.videos[place].label for place in chosen]
        return Features(
            pooled=torch.stack([self._features[files[place]] for place in chosen]),
            labels=torch.tensor([-1 if label is None else label for label in labels]),
            paths=[str(videos.videos[place].path) for place in chosen],
            undecodable=undecodable,
        )

    def _extract(self, videos: dict[FileState, Video], root: Path, *, num_before: int, num_all: int) -> _Shard:
        """Features of some videos, each extracted by one process; the same result in all of them."""
        files = list(videos)
        share = range(rank(), len(files), world_size())
        listed = VideoList(videos=list(videos.values()), classes=[], root=root, split="all", layout="to extract")
        loader = build_eval_loader(
            listed,
            self.settings,
            batch_size=self.batch_size,
            workers=self.workers,
            indices=share,
            limits=self.limits,
        )
        pooled, index = [], []
        reasons: dict[int, str] = {}
        for batch in loader:
            reasons |= {video.index: video.reason for video in batch.skipped}
            if len(batch.index):
                clips = torch.split(batch.clips.flatten(0, 1), CLIPS_AT_ONCE)
                rows = torch.cat([self.source.pool(part.to(self.device, non_blocking=True)) for part in clips])
                pooled.append(rows.reshape(*batch.clips.shape[:2], -1))
                index += batch.index.tolist()
            if self.report is not None and is_main():
                num_done = (len(index) + len(reasons)) * world_size()
                self.report(min(num_before + num_done, num_all), num_all)
        num_views = self.settings.num_clips * self.settings.num_crops
        size = max(gather_objects([pooled[0].shape[-1] if pooled else 0]))
        own = torch.cat(pooled) if pooled else torch.zeros(0, num_views, size, device=self.device)
        places = torch.tensor(gather_objects(index), dtype=torch.int64)
        order = places.argsort()
        return _Shard(
            pooled=gather_rows(own).cpu()[order],
            files=[files[place] for place in places[order].tolist()],
            undecodable={files[place]: reason for place, reason in gather_objects(list(reasons.items()))},
        )

    def _add(self, shard: _Shard) -> None:
        self._features |= dict(zip(shard.files, shard.pooled, strict=True))
        self._reasons |= shard.undecodable

    def _read_cache(self, folder: Path, wanted: Iterable[FileState]) -> None:
        """Take what is wanted out of the cache; a file of it that cannot be read counts as not there."""
        missing = {file for file in wanted if file not in self._features | self._reasons}
        for path in sorted(folder.glob("*.safetensors")) if missing else []:
            try:
                with safe_open(path, framework="pt") as stored:
                    record = json.loads(stored.metadata()["videos"])
                    rows = {row: file for row, file in enumerate(map(_parsed, record["files"])) if file in missing}
                    if rows:
                        pooled = stored.get_tensor("pooled")[list(rows)]
                        self._features |= dict(zip(rows.values(), pooled, strict=True))
            except (SafetensorError, OSError):
                continue
            # What was too large or too slow for one call may not be for another.
            own = record["undecodable"] if record.get("limits") == asdict(self.limits) else []
            undecodable = ((_parsed(file), reason) for file, reason in own)
            self._reasons |= {file: reason for file, reason in undecodable if file in missing}


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


def _key(source: FeatureSource, settings: ClipSettings) -> str:
    return _digest({"version": FORMAT_VERSION, "source": source.name, "settings": asdict(settings)})


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _write_shard(folder: Path, shard: _Shard, limits: DecodeLimits) -> None:
    """Write in one piece: a reader finds the whole file or none."""
    record = {
        "files": [astuple(file) for file in shard.files],
        "undecodable": [(astuple(file), reason) for file, reason in shard.undecodable.items()],
        "limits": asdict(limits),
    }
    path = folder / f"{_digest(record)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"pooled": shard.pooled.contiguous()}, temporary, metadata={"videos": json.dumps(record)})
    let_others_read(temporary)
    temporary.replace(path)


def extract_features(
    source: FeatureSource,
    videos: VideoList,
    settings: ClipSettings,
    *,
    device: torch.device,
    batch_size: int = 8,
    workers: int = 0,
    cache: Path | None = None,
) -> Features:
    """Extract the features of one list of videos in one process, or read them from the cache; see `FeatureStore`.

    Raises:
        DataError: not one video can be decoded.
    """
    store = FeatureStore(source, settings, device=device, batch_size=batch_size, workers=workers, cache=cache)
    store.fill([videos])
    return store.read(videos)
