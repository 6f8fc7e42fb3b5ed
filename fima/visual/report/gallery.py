"""What the encoder of a run makes of videos: neighbours, a map of the features, activation over time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from fima.config import Dataset
from fima.data.clips import FrameCount
from fima.data.datasets import VideoList, list_videos
from fima.data.eval_clips import ClipSettings
from fima.errors import CheckpointError, ConfigError, DataError, VideoError, warn
from fima.evaluate.cam import evenly_spread
from fima.evaluate.extract import Resources
from fima.evaluate.feature_store import FeatureStore
from fima.evaluate.features import Features, encoder_source
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.loaded_model import open_checkpoint
from fima.evaluate.report import ClassReport, confusion_matrix
from fima.evaluate.retrieval import centred, knn_scores
from fima.files.output import check_writable
from fima.visual.maps import look_at, panels, shown_encoder
from fima.visual.report.feature_maps import FeatureMap, feature_map
from fima.visual.report.media import PREVIEW_SECONDS, MediaStore, excerpt
from fima.visual.report.runs import RunRecord

NUM_CLIPS = 3
NUM_QUERIES = 6
NUM_NEIGHBOURS = 5
NUM_ACTIVATION_VIDEOS = 6
ACTIVATION_HEIGHT_PX = 176
MOST_VIDEOS_UNCACHED = 300


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The videos that a gallery is made from."""

    train: VideoList
    """Among which neighbours are looked for."""
    test: VideoList
    """Queries; the same list where there is no test split."""
    labelled: bool
    """Whether there are classes and a test split."""
    cache: Path | None
    """Where their features are kept; None where nothing can be written."""


class Neighbour(NamedTuple):
    """A training video that was found for a query; its class is empty where unknown."""

    path: Path
    class_name: str
    right: bool | None
    """Whether it has the query's class; None where that is not known."""
    similarity: float


class Query(NamedTuple):
    """A test video and its nearest training videos, the nearest first; its class is empty where unknown."""

    path: Path
    class_name: str
    neighbours: list[Neighbour]


class ActivationVideo(NamedTuple):
    """A video next to the activation maps of one or more runs; its class is empty where unknown."""

    path: Path
    class_name: str
    names: list[str]
    """What the panels show, from left to right."""
    media: str | None
    """Its name in the media store; None where there was no room for it."""


@dataclass(frozen=True, kw_only=True)
class RunGallery:
    """What the last checkpoint of one run makes of its data."""

    run: RunRecord
    encoder: FrozenEncoder
    lists: Lists
    queries: list[Query]
    map: FeatureMap
    class_report: ClassReport | None
    """Of a vote of the nearest neighbours; None without labels."""


@dataclass(frozen=True, kw_only=True)
class Galleries:
    """Everything that is made from videos."""

    runs: list[RunGallery] = field(default_factory=list)
    activation: list[ActivationVideo] = field(default_factory=list)
    previews: dict[Path, str | None] = field(default_factory=dict)
    """By file of the queries and neighbours, the name in the media store; None where it cannot be shown."""
    reasons: dict[str, str] = field(default_factory=dict)
    """By run, why there is none."""


def make_galleries(
    runs: Sequence[RunRecord], media: MediaStore, *, data: Path | None, device: torch.device
) -> Galleries:
    """Make galleries of all runs with a checkpoint and data there, or `data`; DataError where that has no videos.

    With `data`, a damaged checkpoint raises CheckpointError; without, that run has a reason instead of a gallery.
    """
    made: list[RunGallery] = []
    reasons: dict[str, str] = {}
    sprites: dict[tuple[Path, ...], str] = {}
    for run in runs:
        try:
            lists = _lists(run, data)
            if run.checkpoint is None:
                raise DataError("no checkpoints/last.pt")
            print(f"{run.name}: features of {len(lists.train.videos)} and {len(lists.test.videos)} videos")
            made.append(_run_gallery(run, run.checkpoint, lists, device, sprites))
        except (DataError, CheckpointError) as error:
            if data is not None and run.checkpoint is not None:
                raise
            reasons[run.name] = str(error)
    activation = []
    for root in dict.fromkeys(gallery.lists.train.root.resolve() for gallery in made):
        group = [gallery for gallery in made if gallery.lists.train.root.resolve() == root]
        print(f"activation maps of {', '.join(gallery.run.name for gallery in group)}")
        activation += _activation_videos(group, media, device)
    queries = [query for gallery in made for query in gallery.queries]
    paths = [path for query in queries for path in (query.path, *(found.path for found in query.neighbours))]
    previews = {path: media.add_preview(path) for path in dict.fromkeys(paths)}
    return Galleries(runs=made, activation=activation, previews=previews, reasons=reasons)


def _lists(run: RunRecord, data: Path | None) -> Lists:
    """The videos of a run, or those of another folder; few of them where no evaluation has left their features."""
    split, annotations = run.setting("data", "split") or 1, None
    dataset: Dataset = "auto"  # another folder need not have the layout that the run's settings name
    if data is None:
        if not run.record.get("root"):
            raise DataError("the run does not say where its data are; give --data")
        if len(run.record.get("sets") or ()) > 1:
            raise DataError("the run trained on several sets; give one to --data")
        dataset, annotations = run.setting("data", "dataset") or "auto", run.setting("data", "annotations")
        # The videos of a table may lie elsewhere.
        data = Path(str((annotations is None and run.record.get("table")) or run.record["root"]))
    listed = partial(list_videos, data, split_index=split, dataset=dataset, annotations=annotations)
    try:
        train, test = listed("train"), listed("test")
        labelled = bool(train.classes) and train.classes == test.classes
        labelled = labelled and all(video.label is not None for part in (train, test) for video in part.videos)
    except DataError:
        train = test = listed("all")
        labelled = False
    evaluated = [place.resolve() for result in run.results for place in result.roots]
    cache = _cache(run)
    if train.root.resolve() not in evaluated or cache is None or not cache.is_dir():
        train, test = (_few(videos) for videos in (train, test))
    return Lists(train=train, test=test, labelled=labelled, cache=cache)


def _cache(run: RunRecord) -> Path | None:
    """Where evaluations of a run keep features; None, with a warning, where it cannot be written."""
    folder = run.root / "evaluation" / "cache"
    try:
        check_writable(folder)
    except ConfigError as error:
        warn(f"{str(error).partition(';')[0]}; the features for the galleries of {run.name} are not kept")
        return None
    return folder


def _few(videos: VideoList) -> VideoList:
    return replace(videos, videos=evenly_spread(videos.videos, MOST_VIDEOS_UNCACHED))


def _run_gallery(
    run: RunRecord, checkpoint: Path, lists: Lists, device: torch.device, sprites: dict[tuple[Path, ...], str]
) -> RunGallery:
    encoder = open_checkpoint(checkpoint, device=device)
    settings = _clip_settings(run, encoder)
    source = encoder_source(encoder.module, encoder.fingerprint)
    store = FeatureStore(source, settings, Resources(device=device), cache=lists.cache)
    store.fill(video.path for videos in (lists.train, lists.test) for video in videos.videos)
    train, test = store.read(lists.train), store.read(lists.test)
    classes = lists.test.classes
    report = None
    if lists.labelled:
        scores = knn_scores(train.per_video, train.labels, test.per_video, num_classes=len(classes))
        counts = confusion_matrix(scores.cpu(), test.labels).tolist()
        report = ClassReport(name="kNN on the last checkpoint", classes=classes, counts=counts)
    return RunGallery(
        run=run,
        encoder=encoder,
        lists=lists,
        queries=_queries(train, test, classes),
        map=feature_map(test, classes, sprites),
        class_report=report,
    )


def _clip_settings(run: RunRecord, encoder: FrozenEncoder) -> ClipSettings:
    """Clips as in the run's evaluation, so that its cached features serve; else a few."""
    for result in run.results:
        for name in ("retrieval", "knn", "linear"):
            clips = result.content["protocols"].get(name, {}).get("clips")
            if isinstance(clips, dict):
                return ClipSettings(**clips)
    return replace(encoder.clips, num_clips=NUM_CLIPS)


def _queries(train: Features, test: Features, classes: Sequence[str]) -> list[Query]:
    """Test videos evenly spread over their list, with their neighbours; never a file as its own neighbour."""
    chosen = _middles(len(test.paths), NUM_QUERIES)
    # Of a single video, its own mean would leave nothing.
    origin = train.per_video if len(test.paths) == 1 else None
    # Of the others, similarities could be larger than memory.
    similarities = centred(test.per_video, origin)[chosen] @ centred(train.per_video).T
    places = {path: place for place, path in enumerate(train.paths)}

    def shown(features: Features, row: int) -> tuple[Path, str]:
        label = int(features.labels[row])
        return Path(features.paths[row]), classes[label] if label >= 0 else ""

    queries = []
    for row, similarity in zip(chosen, similarities, strict=True):
        label, itself = int(test.labels[row]), places.get(test.paths[row])
        if itself is not None:
            similarity[itself] = -torch.inf
        nearest = similarity.topk(min(NUM_NEIGHBOURS, len(train.paths) - (itself is not None)))
        neighbours = [
            Neighbour(*shown(train, found), int(train.labels[found]) == label if label >= 0 else None, value)
            for value, found in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)
        ]
        queries.append(Query(*shown(test, row), neighbours))
    return queries


def _middles(length: int, most: int) -> list[int]:
    """The places in the middle of each of up to `most` equal parts of a list."""
    count = min(most, length)
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]


def _activation_videos(group: Sequence[RunGallery], media: MediaStore, device: torch.device) -> list[ActivationVideo]:
    """The same videos through the encoders of all runs that share them."""
    test = group[0].lists.test
    resources = Resources(device=device, batch_size=8)
    shown = [
        shown_encoder(each.run.name, each.encoder, test, replace(each.encoder.clips, num_clips=1), resources)
        for each in group
    ]
    names = [encoder.name for encoder in shown]
    found = []
    for video in [test.videos[place] for place in _middles(len(test.videos), NUM_ACTIVATION_VIDEOS)]:
        try:
            frames, fps = excerpt(video.path, height=ACTIVATION_HEIGHT_PX, seconds=PREVIEW_SECONDS)
            shot = FrameCount(len(frames), fps=fps, path=video.path)
            maps = look_at(shown, lambda frames=frames: frames, shot, device=device)  # type: ignore[misc]
        except VideoError:
            continue
        found.append(
            ActivationVideo(
                path=video.path,
                class_name=test.classes[video.label] if video.label is not None else "",
                names=["video", *names],
                media=media.add(
                    f"activation {video.path} {' '.join(names)}",
                    (panels(maps, frame, number) for number, frame in enumerate(frames)),
                    fps,
                ),
            )
        )
    return found
