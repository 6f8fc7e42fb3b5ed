"""The embeddings of a list of videos, kept in parts while they are computed, so that they can be continued."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fima.checkpoints.checkpoint import versions
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.errors import DataError
from fima.evaluate.feature_store import file_state
from fima.torch_tools import distributed
from fima.use.encoder import VideoEncoder
from fima.use.extract import VideoRows, extract_rows
from fima.use.table import Embeddings, joined, read_embeddings, write_embeddings

PART_VIDEOS = 200
"""Videos per part: a crash loses at most so many; an interrupt loses none that is done."""

Per = Literal["clip", "video", "second"]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What came out."""

    embeddings: Embeddings
    """Rows by path and time."""
    skipped: list[tuple[str, str]]
    """Videos that cannot be decoded, with the reason."""
    num_before: int
    """Videos whose rows an earlier, interrupted call had left."""
    seconds: float
    """How long the others took."""


def embed_videos(
    encoder: VideoEncoder,
    paths: Sequence[Path],
    *,
    settings: ClipSettings,
    per: Per,
    parts: Path,
    batch_size: int,
    workers: int,
    limits: DecodeLimits = USUAL_LIMITS,
    report: Callable[[int, int], None] | None = None,
) -> Embedded | None:
    """Embed videos; what is done is kept in a folder until everything is done.

    With several processes, all of them call it; each takes its share of the videos.

    Args:
        encoder: on its device.
        paths: the files, each once.
        settings: how clips are cut.
        per: a row for each clip, video or second.
        parts: folder of the parts; removed in the end.
        batch_size: clips at a time.
        workers: processes that decode, in each process.
        limits: what a video may take.
        report: called in the main process with the videos done and all of them.

    Returns:
        The embeddings in the main process, None in the others.

    Raises:
        DataError: a file cannot be read, or not one video can be decoded.
    """
    about = _about(encoder, settings, per)
    key = hashlib.sha256(json.dumps([about["encoder"], per, about["clips"], asdict(limits)]).encode()).hexdigest()[:16]
    states = {str(path): list(astuple(file_state(path))) for path in paths}
    before = _read_parts(parts, key, states)
    distributed.barrier()
    done = {path for part in before for path in [*part.paths, *dict(part.about["skipped"])]}
    todo = [path for path in paths if str(path) not in done]
    began = time.monotonic()
    rows = extract_rows(
        mine := todo[distributed.rank() :: distributed.world_size()],
        encoder.vectors,
        settings,
        per_second=per == "second",
        batch_size=batch_size,
        workers=workers,
        limits=limits,
    )
    _extract(rows, mine, parts=parts, key=key, states=states, mean=per == "video", report=report, num_all=len(paths))
    distributed.barrier()
    if not distributed.is_main():
        return None
    found = _read_parts(parts, key, states)
    skipped = sorted(tuple(item) for part in found for item in part.about["skipped"])
    if not any(len(part.paths) for part in found):
        raise DataError(f"none of {len(skipped)} videos can be decoded; {skipped[0][0]}: {skipped[0][1]}")
    embeddings = joined([part for part in found if part.paths], about=about)
    return Embedded(embeddings=embeddings, skipped=skipped, num_before=len(done), seconds=time.monotonic() - began)


def _about(encoder: VideoEncoder, settings: ClipSettings, per: Per) -> dict[str, Any]:
    """What a file of embeddings says of itself."""
    return {
        "encoder": {"description": encoder.description, "fingerprint": encoder.fingerprint},
        "per": per,
        "clips": asdict(settings),
        "versions": versions(),
    }


def remove_parts(parts: Path) -> None:
    """Remove the folder of the parts, once their content is in its place."""
    shutil.rmtree(parts, ignore_errors=True)


def _extract(
    rows: Iterable[VideoRows | SkippedVideo],
    paths: Sequence[Path],
    *,
    parts: Path,
    key: str,
    states: dict[str, list[Any]],
    mean: bool,
    report: Callable[[int, int], None] | None,
    num_all: int,
) -> None:
    """Write the rows of this process's videos into parts; also those that an interrupt cuts short."""
    num_before = num_all - len(paths) * distributed.world_size()
    found: list[VideoRows] = []
    skipped: list[SkippedVideo] = []
    num_done = 0
    try:
        for item in rows:
            if isinstance(item, SkippedVideo):
                skipped.append(item)
            else:
                found.append(_mean(item) if mean else item)
            num_done += 1
            if report is not None and distributed.is_main():
                report(min(num_all, max(0, num_before) + num_done * distributed.world_size()), num_all)
            if len(found) + len(skipped) == PART_VIDEOS:
                _write_part(parts, key, states, paths, found, skipped)
                found, skipped = [], []
    finally:
        _write_part(parts, key, states, paths, found, skipped)


def _mean(video: VideoRows) -> VideoRows:
    """One row for the whole video."""
    ends = video.seconds[0, 0], video.seconds[:, 1].max()
    return VideoRows(
        index=video.index, rows=video.rows.mean(dim=0, keepdim=True), seconds=video.seconds.new_tensor([ends])
    )


def _write_part(
    folder: Path,
    key: str,
    states: dict[str, list[Any]],
    paths: Sequence[Path],
    found: Sequence[VideoRows],
    skipped: Sequence[SkippedVideo],
) -> None:
    if not found and not skipped:
        return
    names = [str(paths[video.index]) for video in found]
    about = {
        "key": key,
        "states": {name: states[name] for name in [*names, *(video.path for video in skipped)]},
        "skipped": [(video.path, video.reason) for video in skipped],
    }
    counts = [len(video.rows) for video in found]
    part = Embeddings(
        vectors=np.concatenate([video.rows.float().numpy() for video in found] or [np.zeros((0, 0), np.float32)]),
        seconds=np.concatenate([video.seconds.numpy() for video in found] or [np.zeros((0, 2))]),
        video=np.repeat(np.arange(len(found)), counts),
        paths=names,
        about=about,
    )
    name = hashlib.sha256(json.dumps([key, sorted(about["states"])]).encode()).hexdigest()[:16]
    write_embeddings(folder / f"{name}.safetensors", part)


def _read_parts(folder: Path, key: str, states: dict[str, list[Any]]) -> list[Embeddings]:
    """Parts of the same encoder and settings whose files have not changed since."""
    parts = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            part = read_embeddings(path)
        except DataError:
            continue  # cut short by a crash: its videos are embedded again
        same = all(states.get(name) == state for name, state in part.about["states"].items())
        if part.about["key"] == key and same:
            parts.append(part)
    return parts
