from pathlib import Path

import pytest

from fima.config import DataConfig
from fima.data.layouts.video_list import PackedVideos
from fima.data.quarantine import write_quarantine
from fima.data.training_sets import chosen_videos
from fima.errors import DataError


def test_the_settings_choose_the_videos(videos: Path, tmp_path: Path) -> None:
    assert len(chosen_videos(videos, DataConfig(), "train").videos) == 8
    assert len(chosen_videos(videos, DataConfig(), "all").videos) == 10
    listed = tmp_path / "quarantine.txt"
    write_quarantine(listed, ["a/00.avi", "b/01.avi"])
    kept = chosen_videos(videos, DataConfig(exclude=str(listed)), "all")
    assert len(kept.videos) == 8
    assert isinstance(kept.videos, PackedVideos)
    assert not {"a/00.avi", "b/01.avi"} & {str(video.path.relative_to(videos)) for video in kept.videos}
    assert "2 videos excluded" in kept.layout


def test_other_layouts_are_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UCF101"):
        chosen_videos(videos, DataConfig(dataset="ucf101"), "train")
    with pytest.raises(DataError, match=r"missing\.txt"):
        chosen_videos(videos, DataConfig(exclude=str(tmp_path / "missing.txt")), "train")
