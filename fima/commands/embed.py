"""`fima embed`: vectors of videos, clips or seconds."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fima.commands.output import listed_videos, show_next
from fima.commands.parse import OUT, Device
from fima.commands.progress import kept_when_interrupted, progress
from fima.config import Dataset
from fima.config.checks import require_least
from fima.data.clip_overrides import ClipOverrides
from fima.data.decode.limits import DecodeLimits
from fima.data.workers.killable_pool import available_cores
from fima.errors import ConfigError, warn
from fima.files.atomic import write_file
from fima.files.output import OutputPath
from fima.library.clip_fit import coarse_clips

if TYPE_CHECKING:
    from fima.use.embed import Embedded

MOST_WORKERS = 4


@dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """Write the vectors of videos to a file: a row per video, clip or second, with path and times.

    For example: `fima embed runs/mine VIDEOS -o vectors.npz --per second`. Repeat an interrupted
    command to continue it. Start it under `torchrun` to use several devices.
    """

    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """Folder of a run, a checkpoint, weights, or `hf://OWNER/NAME`; or an encoder of another program,
    as in `fima evaluate`: `torchvision:NAME`, `hf:FOLDER`, FILE.onnx, `module:function`."""
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VIDEOS")]
    """Folder or table of videos, or one video."""
    out: Annotated[OutputPath, OUT]
    """The file to write: .parquet, .npz or .safetensors."""
    per: Literal["clip", "video", "second"] = "video"
    """`video`: the mean over its clips; `clip`: evenly spread ones; `second`: a clip around the middle of each."""
    clips: int = 10
    """Clips per video, evenly spread over it; those of `--per second` follow from its length."""
    crops: Literal[1, 3] = 1
    """Crops per clip, whose vectors are averaged: the centre, or three along the longer side."""
    split: Literal["all", "train", "test"] = "all"
    """Which videos of the data set."""
    split_index: int = 1
    """Number of the official split, if a data set has several."""
    dataset: Dataset = "auto"
    """Layout of the data; `auto` detects it."""
    annotations: Path | None = None
    """List file or folder of list files, if they are not with the videos."""
    clips_shown: Annotated[ClipOverrides, tyro.conf.arg(name="")] = field(default_factory=ClipOverrides)
    batch_size: int = 32
    """Clips at a time."""
    workers: int | None = None
    """Processes that decode; 0 decodes in this one. None: one for each core, at most 4."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Limits for one video."""
    device: Device = "auto"
    json: bool = False
    """Print what was done as one JSON object."""

    def __post_init__(self) -> None:
        require_least(self, clips=1, batch_size=1, workers=0)
        if self.per == "second" and self.clips_shown.span is not None:
            raise ConfigError(f"--span {self.clips_shown.span:g}: a clip of --per second covers that second")


def main(arguments: EmbedArguments) -> None:
    """Run the command."""
    from fima.evaluate.extract import Resources
    from fima.evaluate.frozen import check_fits
    from fima.torch_tools import distributed
    from fima.torch_tools.device import choose_device
    from fima.use.embed import embed_videos
    from fima.use.encoder import open_encoder
    from fima.use.table import check_names, check_suffix

    check_suffix(arguments.out)
    if arguments.out.exists():
        raise ConfigError(f"-o {arguments.out}: already exists; choose another name, or remove it")
    paths = _paths(arguments)
    check_names(arguments.out, paths)
    try:
        device = distributed.init_from_environment(choose_device(arguments.device))
        encoder = open_encoder(arguments.encoder, device)
        parts = arguments.out.with_name(f".{arguments.out.name}.parts")
        trained = replace(encoder.clips, num_clips=arguments.clips, num_crops=arguments.crops)
        # The clip of a second covers that second, not a share of the video.
        trained = replace(trained, span=0.0) if arguments.per == "second" else trained
        settings = arguments.clips_shown.applied_to(trained)
        resources = Resources(
            device=device,
            batch_size=arguments.batch_size,
            workers=min(MOST_WORKERS, available_cores()) if arguments.workers is None else arguments.workers,
            limits=arguments.limits,
        )
        check_fits(encoder.module, settings, name=encoder.name, device=device)
        if distributed.is_main() and (assumption := encoder.assumed(settings)):
            warn(assumption)
        if distributed.is_main() and arguments.clips_shown.span is None and (coarse := coarse_clips(paths, settings)):
            warn(f"{coarse}; --per second makes a vector of each second")
        with kept_when_interrupted(), progress("embedding") as report:
            embedded = embed_videos(encoder, paths, settings, resources, per=arguments.per, parts=parts, report=report)
    finally:
        distributed.shutdown()
    if embedded is not None:
        _write(arguments, embedded)
        shutil.rmtree(parts, ignore_errors=True)


def _paths(arguments: EmbedArguments) -> list[Path]:
    """The files by their whole paths, without `..`, each once."""
    videos = listed_videos(
        arguments.data,
        arguments.split,
        arguments.split_index,
        dataset=arguments.dataset,
        annotations=arguments.annotations,
    )
    paths = (video.path for video in videos)
    return list(dict.fromkeys(path.resolve() if ".." in path.parts else path.absolute() for path in paths))


def _write(arguments: EmbedArguments, embedded: Embedded) -> None:
    from fima.checkpoints.pretrained import shipped_encoders
    from fima.data.layouts.video_list import counted
    from fima.use.table import write_embeddings

    found, source = embedded.embeddings, arguments.encoder
    if Path(source).exists() and source not in shipped_encoders():
        source = str(Path(source).resolve())  # to be found from other folders, too
    found = replace(found, about={**found.about, "source": source})
    write_embeddings(arguments.out, found)
    skipped = arguments.out.with_name(f"{arguments.out.name}.skipped.jsonl")
    skipped.unlink(missing_ok=True)  # of an earlier call
    if embedded.skipped:
        lines = (json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in embedded.skipped)
        write_file(skipped, "".join(lines))
    num_new = len(found.paths) + len(embedded.skipped) - embedded.num_before
    speed = num_new / embedded.seconds if embedded.seconds else 0.0
    record: dict[str, Any] = {
        "out": str(arguments.out),
        "num_videos": len(found.paths),
        "num_rows": len(found.vectors),
        "num_features": found.vectors.shape[1],
        "num_skipped": len(embedded.skipped),
        "num_continued": embedded.num_before,
        "seconds": round(embedded.seconds, 2),
        "videos_per_second": round(speed, 2),
    }
    if arguments.json:
        print(json.dumps(record))
        return
    print(
        f"wrote {arguments.out}: {counted(len(found.vectors), 'vector')} of {found.vectors.shape[1]} numbers, "
        f"{counted(len(found.paths), 'video')} ({speed:.1f} a second)"
    )
    if embedded.skipped:
        path, reason = embedded.skipped[0]
        videos = counted(len(embedded.skipped), "video")
        warn(f"{videos} without a vector, named in {skipped}; {path}: {reason}")
    show_next(["search", arguments.out, "QUERY.mp4", "-k", 10])
