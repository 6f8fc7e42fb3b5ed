"""What the encoder of a run makes of videos: neighbours, a map of the features, activation over time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fima.checkpoints.checkpoint import LoadedEncoder
from fima.checkpoints.pretrained import load_pretrained
from fima.data.clips import FrameCount
from fima.data.eval_clips import ClipSettings
from fima.errors import DataError, VideoError
from fima.evaluate.extract import Resources
from fima.evaluate.feature_store import extract_features
from fima.evaluate.features import Features, encoder_source
from fima.evaluate.knn import knn_scores
from fima.evaluate.report import confusion_matrix
from fima.evaluate.retrieval import centred
from fima.visual.cam_video import look_at, shown_encoder
from fima.visual.report.lists import Lists, read_lists
from fima.visual.report.media import MediaStore, middle_frames
from fima.visual.report.projection import projections
from fima.visual.report.runs import ClassReport, RunRecord

NUM_CLIPS = 3
MOST_MAPPED = 400
NUM_QUERIES = 6
NUM_NEIGHBOURS = 5
NUM_ACTIVATION_VIDEOS = 6
ACTIVATION_HEIGHT_PX = 176
SIMILARITY_VIDEOS = 250

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training video that was found for a query."""

    path: Path
    class_name: str
    """Its class; empty where unknown."""
    right: bool | None
    """Whether it has the query's class; None where that is not known."""
    similarity: float
    """Cosine to the query."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A test video and its nearest training videos."""

    path: Path
    class_name: str
    """Its class; empty where unknown."""
    neighbours: list[Neighbour]
    """Nearest first."""


@dataclass(frozen=True, kw_only=True)
class RunGallery:
    """What the last checkpoint of one run makes of its data."""

    run: RunRecord
    loaded: LoadedEncoder
    lists: Lists
    queries: list[Query]
    projections: Mapping[str, NDArray[np.floating[Any]]]
    """By method, (V, 2)."""
    no_projections: str
    """Why there are none; empty where there are some."""
    mapped: list[Path]
    """The V files of the projections."""
    mapped_labels: list[int]
    """Their class numbers; -1 where unknown."""
    similarities: Mapping[str, NDArray[np.floating[Any]]]
    """Cosines by kind of pair of clips."""
    class_report: ClassReport | None
    """Of a vote of the nearest neighbours; None without labels."""


@dataclass(frozen=True, kw_only=True)
class ActivationVideo:
    """A video next to the activation maps of one or more runs."""

    path: Path
    class_name: str
    """Its class; empty where unknown."""
    names: list[str]
    """What the panels show, from left to right."""
    media: str | None
    """Its name in the media store; None where there was no room for it."""


@dataclass(frozen=True, kw_only=True)
class Galleries:
    """Everything that is made from videos."""

    runs: list[RunGallery] = field(default_factory=list)
    activation: list[ActivationVideo] = field(default_factory=list)
    previews: dict[Path, str | None] = field(default_factory=dict)
    """By file of the queries and neighbours, the name in the media store; None where it cannot be shown."""
    reasons: dict[str, str] = field(default_factory=dict)
    """By run, why there is none."""

    @property
    def class_reports(self) -> dict[str, ClassReport]:
        """By run, the vote of the nearest neighbours."""
        return {each.run.name: each.class_report for each in self.runs if each.class_report is not None}


def make_galleries(
    runs: Sequence[RunRecord], media: MediaStore, *, data: Path | None, device: torch.device, say: Say
) -> Galleries:
    """Make the galleries of all runs that have a checkpoint and whose data, or the folder `data`, are there.

    Raises:
        DataError: `data` is given and is no folder of videos.
    """
    made: list[RunGallery] = []
    reasons: dict[str, str] = {}
    for run in runs:
        try:
            lists = read_lists(run, data)
            if run.checkpoint is None:
                raise DataError("no checkpoints/last.pt")
            say(f"{run.name}: features of {len(lists.train.videos)} and {len(lists.test.videos)} videos")
            made.append(_run_gallery(run, run.checkpoint, lists, device))
        except DataError as error:
            if data is not None and run.checkpoint is not None:
                raise
            reasons[run.name] = str(error)
    activation = []
    for root in dict.fromkeys(gallery.lists.root.resolve() for gallery in made):
        group = [gallery for gallery in made if gallery.lists.root.resolve() == root]
        say(f"activation maps of {', '.join(gallery.run.name for gallery in group)}")
        activation += _activation_videos(group, media, device)
    queries = [query for gallery in made for query in gallery.queries]
    paths = [path for query in queries for path in (query.path, *(found.path for found in query.neighbours))]
    previews = {path: media.add_preview(path) for path in dict.fromkeys(paths)}
    return Galleries(runs=made, activation=activation, previews=previews, reasons=reasons)


def _run_gallery(run: RunRecord, checkpoint: Path, lists: Lists, device: torch.device) -> RunGallery:
    loaded = load_pretrained(checkpoint, device=device)
    settings = _clip_settings(run, loaded)
    train, test = (
        extract_features(
            encoder_source(loaded.encoder, f"checkpoint {loaded.checkpoint_hash}"),
            videos,
            settings,
            device=device,
            cache=run.root / "evaluation" / "cache",
        )
        for videos in (lists.train, lists.test)
    )
    classes = lists.test.classes
    rows = torch.arange(len(test.paths))
    mapped = rows[:: max(1, -(-len(rows) // MOST_MAPPED))]
    vectors = test.per_video[mapped].cpu()
    shown, reason = projections(vectors.numpy(), centred(vectors).numpy())
    report = None
    if lists.labelled:
        scores = knn_scores(train.per_video, train.labels, test.per_video, num_classes=len(classes))
        counts = confusion_matrix(scores.cpu(), test.labels).tolist()
        report = ClassReport(name="kNN on the last checkpoint", classes=classes, counts=counts)
    return RunGallery(
        run=run,
        loaded=loaded,
        lists=lists,
        queries=_queries(train, test, classes),
        projections=shown,
        no_projections=reason,
        mapped=[Path(test.paths[row]) for row in mapped.tolist()],
        mapped_labels=test.labels[mapped].tolist(),
        similarities=_similarities(test),
        class_report=report,
    )


def _clip_settings(run: RunRecord, loaded: LoadedEncoder) -> ClipSettings:
    """Clips as in the run's evaluation, so that its cached features serve; else a few."""
    for result in run.results:
        for name in ("retrieval", "knn", "linear"):
            clips = result.content["protocols"].get(name, {}).get("clips")
            if isinstance(clips, dict):
                return ClipSettings(**clips)
    return ClipSettings.of(loaded.config.data, num_clips=NUM_CLIPS)


def _queries(train: Features, test: Features, classes: Sequence[str]) -> list[Query]:
    """Test videos evenly spread over their list, with their neighbours; never a file as its own neighbour."""
    similarity = centred(test.per_video) @ centred(train.per_video).T
    places = {path: place for place, path in enumerate(train.paths)}
    for row, path in enumerate(test.paths):
        if path in places:
            similarity[row, places[path]] = -torch.inf
    count = min(NUM_QUERIES, len(test.paths))
    num_neighbours = min(NUM_NEIGHBOURS, len(train.paths) - 1)

    def class_of(label: int) -> str:
        return classes[label] if label >= 0 else ""

    queries = []
    for row in [(2 * place + 1) * len(test.paths) // (2 * count) for place in range(count)]:
        label = int(test.labels[row])
        nearest = similarity[row].topk(num_neighbours)
        neighbours = [
            Neighbour(
                path=Path(train.paths[found]),
                class_name=class_of(int(train.labels[found])),
                right=int(train.labels[found]) == label if label >= 0 else None,
                similarity=value,
            )
            for value, found in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)
        ]
        queries.append(Query(path=Path(test.paths[row]), class_name=class_of(label), neighbours=neighbours))
    return queries


def _similarities(test: Features) -> dict[str, NDArray[np.floating[Any]]]:
    """Cosines between clips: of one video, of the same class, of other classes (of other videos without labels)."""
    step = max(1, -(-len(test.paths) // SIMILARITY_VIDEOS))
    clips, labels = centred(test.pooled[::step]), test.labels[::step]
    num_videos, num_clips = clips.shape[:2]
    rows = clips.flatten(0, 1)
    cosine = rows @ rows.T
    video = torch.arange(num_videos).repeat_interleave(num_clips)
    label = labels.repeat_interleave(num_clips)
    upper = torch.ones_like(cosine, dtype=torch.bool).triu(diagonal=1)
    same_video = video[:, None] == video[None]
    same_class = (label[:, None] == label[None]) & (label[:, None] >= 0) & ~same_video
    groups = {
        "clips of one video": same_video,
        "videos of one class": same_class,
        "other videos" if int(label.max()) < 0 else "videos of different classes": ~same_video & ~same_class,
    }
    return {name: cosine[chosen & upper].numpy() for name, chosen in groups.items() if bool((chosen & upper).any())}


def _activation_videos(group: Sequence[RunGallery], media: MediaStore, device: torch.device) -> list[ActivationVideo]:
    """The same videos through the encoders of all runs that share them."""
    test = group[0].lists.test
    resources = Resources(device=device, batch_size=8)
    shown = [
        shown_encoder(
            each.run.name, each.loaded, test, ClipSettings.of(each.loaded.config.data, num_clips=1), resources
        )
        for each in group
    ]
    count = min(NUM_ACTIVATION_VIDEOS, len(test.videos))
    found = []
    for video in [test.videos[(2 * place + 1) * len(test.videos) // (2 * count)] for place in range(count)]:
        try:
            frames, fps = middle_frames(video.path, height=ACTIVATION_HEIGHT_PX)
        except VideoError:
            continue
        excerpt = FrameCount(len(frames), fps=fps, path=video.path)
        maps = look_at(shown, lambda frames=frames: frames, excerpt, device=device)  # type: ignore[misc]
        panels = (maps.panels(frame, number) for number, frame in enumerate(frames))
        name = f"activation {video.path} {' '.join(encoder.name for encoder in shown)}"
        found.append(
            ActivationVideo(
                path=video.path,
                class_name=test.classes[video.label] if video.label is not None else "",
                names=["video", *(encoder.name for encoder in shown)],
                media=media.add(name, panels, fps),
            )
        )
    return found
