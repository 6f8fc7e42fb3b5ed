"""`fima predict`: the classes of videos."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fima.commands.output import listed_videos
from fima.commands.parse import OUT, Device, one_or_more
from fima.commands.progress import progress
from fima.config.checks import require_least
from fima.data.decode.limits import DecodeLimits
from fima.errors import ConfigError, DataError, one_line, warn
from fima.files.atomic import write_file
from fima.files.output import OutputFile

if TYPE_CHECKING:
    from fima.use.predict import Prediction

DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """Predict the classes of videos with a classifier of `fima finetune`.

    For example: `fima predict runs/classifier clip.mp4 --per second --json`.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLASSIFIER")]
    """Folder of a run of `fima finetune`, or its checkpoint."""
    videos: Annotated[tyro.conf.Positional[tuple[Path, ...]], one_or_more("VIDEO")]
    """Videos, or folders or tables of videos."""
    per: Literal["video", "second"] = "video"
    """One prediction for each video, or for each second."""
    top: int = 5
    """Number of most probable classes to give."""
    out: Annotated[OutputFile | None, OUT] = None
    """A .json or .csv file to write."""
    frame_rate: float | None = None
    """Frame rate of videos whose files do not state one, such as folders of pictures. None: as in training."""
    batch_size: int = 16
    """Clips at a time."""
    workers: int = 0
    """Processes that decode; 0 decodes in this one."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Limits for one video."""
    device: Device = "auto"
    json: bool = False
    """Print the predictions as JSON."""

    def __post_init__(self) -> None:
        require_least(self, top=1, frame_rate=0, batch_size=1, workers=0)
        if not self.videos:
            raise ConfigError("no video given; name one or more after the model")
        if self.out is not None and self.out.suffix not in (".json", ".csv"):
            raise ConfigError(f"-o {self.out}: must end in .json or .csv")


def main(arguments: PredictArguments) -> None:
    """Run the command."""
    from fima.checkpoints.classifier import load_classifier
    from fima.checkpoints.pretrained import encoder_file
    from fima.data.loader import SkippedVideo
    from fima.evaluate.extract import Resources
    from fima.torch_tools.device import choose_device
    from fima.use.predict import predict

    device = choose_device(arguments.device)
    paths = [video.path for given in arguments.videos for video in listed_videos(given)]
    classifier = load_classifier(encoder_file(arguments.model), device=device)
    resources = Resources(
        device=device, batch_size=arguments.batch_size, workers=arguments.workers, limits=arguments.limits
    )
    per_second, frame_rate = arguments.per == "second", arguments.frame_rate
    items: list[Prediction | SkippedVideo] = []
    done: set[str] = set()
    interrupt: KeyboardInterrupt | None = None
    try:
        with progress("predicting") as report:
            for item in predict(classifier, paths, resources, per_second=per_second, frame_rate=frame_rate):
                items.append(item)
                done.add(str(item.path))
                report(len(done), len(paths))
    except KeyboardInterrupt as error:
        interrupt = error  # what is there is not lost
    skipped = [item for item in items if isinstance(item, SkippedVideo)]
    found = [item for item in items if not isinstance(item, SkippedVideo)]
    if not found and interrupt is not None:
        raise interrupt
    if not found:
        raise DataError(f"none of {len(skipped)} videos can be decoded; {skipped[0].path}: {skipped[0].reason}")
    for video in skipped:
        warn(f"{video.path}: {video.reason}")
    place = {path: number for number, path in enumerate(paths)}
    found.sort(key=lambda one: place[one.path])
    records = [_record(one, classifier.checkpoint.classes, arguments.top) for one in found]
    if arguments.out is not None:
        _write(arguments.out, records)
    if arguments.json:
        print(json.dumps(records, indent=1))
    else:
        print("\n".join(_line(record, seconds=per_second) for record in records))
        if arguments.out is not None:
            print(f"wrote {arguments.out}")
    if interrupt is not None:
        warn(f"these are {len(done)} of {len(paths)} videos")
        raise interrupt


def _record(prediction: Prediction, classes: Sequence[str], top: int) -> dict[str, Any]:
    best = prediction.probabilities.topk(min(top, len(classes)))
    start, end = (None if math.isnan(value) else round(value, DIGITS) for value in prediction.seconds)
    return {
        "path": str(prediction.path),
        "start_seconds": start,
        "end_seconds": end,
        "predictions": [
            {"label": classes[label], "score": round(score, DIGITS)}
            for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ],
    }


def _line(record: dict[str, Any], *, seconds: bool) -> str:
    when = f" {record['start_seconds']:.1f}-{record['end_seconds']:.1f} s" if seconds else ""
    scores = ", ".join(f"{one['label']} {100 * one['score']:.1f} %" for one in record["predictions"])
    return f"{one_line(record['path'])}{when}: {scores}"


def _write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    from fima.evaluate.report import write_csv

    if path.suffix == ".json":
        write_file(path, json.dumps(records, indent=1) + "\n")
        return
    rows = [
        [record["path"], record["start_seconds"], record["end_seconds"], rank, one["label"], one["score"]]
        for record in records
        for rank, one in enumerate(record["predictions"], start=1)
    ]
    write_csv(path, [["path", "start_seconds", "end_seconds", "rank", "label", "score"], *rows])
