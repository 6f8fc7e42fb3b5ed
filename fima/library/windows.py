"""How many windows of a long recording an epoch takes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fima.config import DataConfig
from fima.data.datasets import VideoList
from fima.data.layouts.video_list import relative_name
from fima.data.training_sets import TrainingSet, training_videos
from fima.errors import DataError
from fima.library.clip_fit import windows_by_length
from fima.library.index import open_index
from fima.torch_tools import distributed


def videos_of_epoch(sets: Sequence[TrainingSet], settings: DataConfig, seed: int = 0) -> VideoList:
    """List the videos to train on, and what an epoch has of them. Raises as `training_videos` and `windows_of`."""
    videos = training_videos(sets, settings, seed)
    if settings.windows_per_video == 1:
        return videos
    windows = np.asarray(windows_of(videos, [each.root for each in sets], settings), dtype=np.int64)
    plan = replace(videos.epoch, windows=windows).mixed([each.weight for each in sets], settings.mixing)
    return replace(videos, plan=plan)


def windows_of(videos: VideoList, roots: Sequence[Path], data: DataConfig) -> list[int]:
    """Windows of each video in an epoch, the same in all processes; `roots` are the folders of its sets, in order.

    With `auto`, frames and rates are those of the index of each folder, which is brought up to date before. Raises
    DataError where an index cannot be written.
    """
    if data.windows_per_video != "auto":
        return [int(data.windows_per_video)] * len(videos.videos)
    counts: list[int] = []
    for root, places, own in zip(roots, videos.epoch.sets, videos.epoch.settings(data), strict=True):
        paths = [videos.videos[place].path for place in places]
        counts += distributed.gather_objects(_by_length(root, paths, own) if distributed.is_main() else [])
    return counts


def _by_length(root: Path, paths: Sequence[Path], data: DataConfig) -> list[int]:
    try:
        with open_index(root) as index:
            # Another run may start at this moment, on other videos of the folder.
            index.update(paths, workers=max(1, data.workers), drop_others=False)
            lengths = index.lengths()
    except DataError as error:
        cause = str(error).partition(";")[0]
        raise DataError(f"{cause}; point XDG_CACHE_HOME to a folder that can be written") from None
    found = (lengths.get(relative_name(path, root), (0, 0.0)) for path in paths)
    return [windows_by_length(num_frames, fps or data.frame_rate) for num_frames, fps in found]
