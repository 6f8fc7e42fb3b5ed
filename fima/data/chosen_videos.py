"""The videos that the settings of a run choose."""

from pathlib import Path

from fima.config import DataConfig
from fima.data.datasets import list_videos
from fima.data.layouts.video_list import Split, VideoList
from fima.data.packed_lists import packed
from fima.data.quarantine import exclude


def chosen_videos(root: Path, settings: DataConfig, split: Split) -> VideoList:
    """List one split of the data of a run, without the videos that `data.exclude` names.

    The list has no object per video, so that the processes that decode share its memory.

    Raises:
        DataError: as `list_videos`; or the list of excluded videos cannot be read, or leaves nothing.
    """

    def listed(part: Split) -> VideoList:
        return list_videos(root, part, settings.split, dataset=settings.dataset, annotations=settings.annotations)

    videos = listed(split)
    if settings.exclude is not None:
        videos = exclude(videos, Path(settings.exclude), library=lambda: listed("all"))
    return packed(videos)
