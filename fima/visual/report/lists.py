"""The videos that the galleries of a run are made from."""

from dataclasses import dataclass, replace
from pathlib import Path

from fima.config import Dataset
from fima.data.datasets import VideoList, list_videos
from fima.errors import DataError
from fima.evaluate.cam import evenly_spread
from fima.visual.report.runs import RunRecord

MOST_VIDEOS_UNEVALUATED = 300


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The videos that a gallery is made from."""

    root: Path
    train: VideoList
    """Among which neighbours are looked for."""
    test: VideoList
    """Queries; the same list where there is no test split."""
    labelled: bool
    """Whether there are classes and a test split."""


def read_lists(run: RunRecord, data: Path | None) -> Lists:
    """List the videos of a run, or those of another folder; few of them where the run was never evaluated.

    Raises:
        DataError: the folder is not known, not there, or holds no video.
    """
    recorded = run.record.get("root")
    if data is None and not recorded:
        raise DataError("the run does not say where its data are; give --data")
    root = data if data is not None else Path(str(recorded))
    split = run.setting("data", "split") or 1
    # Another folder need not have the layout that the run's settings name.
    dataset: Dataset = (run.setting("data", "dataset") or "auto") if data is None else "auto"
    annotations = run.setting("data", "annotations") if data is None else None
    try:
        train = list_videos(root, "train", split, dataset=dataset, annotations=annotations)
        test = list_videos(root, "test", split, dataset=dataset, annotations=annotations)
        labelled = bool(train.classes) and train.classes == test.classes
    except DataError:
        train = test = list_videos(root, "all", split, dataset=dataset, annotations=annotations)
        labelled = False
    if not run.results:
        train, test = (_few(videos) for videos in (train, test))
    return Lists(root=root, train=train, test=test, labelled=labelled)


def _few(videos: VideoList) -> VideoList:
    places = evenly_spread(len(videos.videos), MOST_VIDEOS_UNEVALUATED)
    return replace(videos, videos=[videos.videos[place] for place in places])
