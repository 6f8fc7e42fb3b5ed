"""Pooled features of evenly spread clips, extracted once and cached."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fima.data.augment import MEAN, STD
from fima.data.datasets import VideoList
from fima.data.eval_clips import build_eval_loader
from fima.data.loader import SkippedVideo
from fima.errors import ConfigError, DataError

FORMAT_VERSION = 1
DIFFERENCE_CELLS = 8


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How clips are cut out of videos."""

    frames: int
    """Frames per clip; its window is twice as many frames of the video."""
    crop_size: int
    """Side of the centre crop, in pixels."""
    num_clips: int = 10
    """Clips per video, evenly spread over it."""

    def __post_init__(self) -> None:
        for name, smallest in (("frames", 1), ("crop_size", 8), ("num_clips", 1)):
            if getattr(self, name) < smallest:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be at least {smallest}")


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What turns clips into feature vectors."""

    name: str
    """Identifies the weights; part of the cache's key."""
    pool: Callable[[Tensor], Tensor]
    """uint8 clips (B, 3, F, S, S) -> float32 features (B, C), on the same device."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the videos that can be decoded, in the order of the list."""

    pooled: Tensor
    """(V, num_clips, C), float32."""
    labels: Tensor
    """(V,) class numbers; -1 where unknown."""
    paths: list[str]
    """The V files."""
    undecodable: list[SkippedVideo]
    """The other files of the list."""

    @property
    def per_video(self) -> Tensor:
        """The mean over the clips, (V, C)."""
        return self.pooled.mean(dim=1)


def encode(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return the feature map (B, C, t, h, w) of uint8 clips (B, 3, F, S, S), without gradients."""
    mean, std = (torch.tensor(values, device=clips.device).view(3, 1, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        features: Tensor = encoder((clips.float() / 255 - mean) / std)
    return features.float()


def encoder_source(encoder: nn.Module, name: str) -> FeatureSource:
    """Features are an encoder's feature map, averaged over time and space.

    Args:
        encoder: (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), in eval mode.
        name: identifies the weights, such as a hash of the checkpoint.
    """
    return FeatureSource(name=name, pool=lambda clips: encode(encoder, clips).mean(dim=(2, 3, 4)))


def raw_difference_features(clips: Tensor) -> Tensor:
    """Features without an encoder: absolute differences of neighbouring frames, pooled.

    Args:
        clips: uint8 (B, 3, F, S, S).

    Returns:
        (B, (F - 1) · 65): for each pair of frames the mean over the colours, averaged in an 8 x 8 grid, then over the
        whole frame.
    """
    difference = (clips[:, :, 1:].float() - clips[:, :, :-1].float()).abs().mean(dim=1).div_(255)
    grid = functional.adaptive_avg_pool2d(difference, DIFFERENCE_CELLS)
    return torch.cat([grid.flatten(1), difference.mean(dim=(2, 3))], dim=1)


RAW_DIFFERENCE = FeatureSource(
    name=f"raw frame differences, {DIFFERENCE_CELLS}x{DIFFERENCE_CELLS} grid", pool=raw_difference_features
)


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
    """Extract the features of every video, or read them from the cache.

    The cache is keyed by the source's name, the settings, and path, size and modification time of every file.

    Args:
        source: what turns clips into features.
        videos: the videos.
        settings: how clips are cut out of them.
        device: where features are computed.
        batch_size: videos at a time.
        workers: processes that decode; 0 decodes in this one.
        cache: folder of cached features; None: no cache.

    Raises:
        DataError: not one video can be decoded.
    """
    stored = None if cache is None else cache / f"{_cache_key(source, videos, settings)}.safetensors"
    found = None if stored is None else _read_cache(stored)
    if found is None:
        found = _extract(source, videos, settings, device=device, batch_size=batch_size, workers=workers)
        if stored is not None:
            _write_cache(stored, *found)
    pooled, index, undecodable = found
    chosen = [videos.videos[i] for i in index.tolist()]
    return Features(
        pooled=pooled,
        labels=torch.tensor([-1 if video.label is None else video.label for video in chosen]),
        paths=[str(video.path) for video in chosen],
        undecodable=undecodable,
    )


Extracted = tuple[Tensor, Tensor, list[SkippedVideo]]


def _extract(
    source: FeatureSource,
    videos: VideoList,
    settings: ClipSettings,
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
) -> Extracted:
    """Features (V, num_clips, C), places of the V videos in the list, and the others."""
    loader = build_eval_loader(videos, **asdict(settings), batch_size=batch_size, workers=workers)
    pooled, index, undecodable = [], [], []
    for batch in loader:
        undecodable += batch.skipped
        if len(batch.index):
            clips = batch.clips.to(device, non_blocking=True)
            pooled.append(source.pool(clips.flatten(0, 1)).reshape(*clips.shape[:2], -1).cpu())
            index.append(batch.index)
    if not pooled:
        first = undecodable[0]
        raise DataError(
            f"{videos.root}: none of {len(undecodable)} videos can be decoded; {first.path}: {first.reason}"
        )
    return torch.cat(pooled), torch.cat(index), undecodable


def _cache_key(source: FeatureSource, videos: VideoList, settings: ClipSettings) -> str:
    files = []
    for video in videos.videos:
        try:
            status = video.path.stat()
        except OSError as error:
            raise DataError(f"{video.path}: cannot be read ({error.strerror})") from None
        files.append((str(video.path.absolute()), status.st_size, status.st_mtime_ns))
    key = {"version": FORMAT_VERSION, "source": source.name, "settings": asdict(settings), "files": files}
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _read_cache(path: Path) -> Extracted | None:
    """What `_write_cache` wrote; None where there is nothing that can be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            skipped = json.loads(file.metadata()["undecodable"])
            return file.get_tensor("pooled"), file.get_tensor("index"), [SkippedVideo(**video) for video in skipped]
    except SafetensorError:
        return None


def _write_cache(path: Path, pooled: Tensor, index: Tensor, undecodable: list[SkippedVideo]) -> None:
    """Write in one piece: a reader finds the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    metadata = {"undecodable": json.dumps([asdict(video) for video in undecodable])}
    save_file({"pooled": pooled.contiguous(), "index": index}, temporary, metadata=metadata)
    temporary.replace(path)
