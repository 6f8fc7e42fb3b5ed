"""How many samples of an epoch long videos give."""

from dataclasses import replace
from pathlib import Path

import pytest

from fima.config import DataConfig
from fima.data.training_sets import TrainingSet, training_videos
from fima.errors import ConfigError, DataError
from fima.library import clip_fit
from fima.library.index import VideoIndex
from fima.library.windows import videos_of_epoch, windows_of
from fima.train.resolve import warnings_about, with_queue_sizes
from tests.small_runs import make_videos, with_settings
from tests.video_files import moving_square, write_video


def test_windows_follow_from_the_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of 12 frames, and one of 80 s at one frame a second."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = make_videos(tmp_path / "videos", num_per_class=2)
    write_video(folder / "a" / "long.mp4", moving_square(80, 32, 32), codec="libx264", fps=1)
    data = DataConfig(part="all", workers=1, windows_per_video="auto")
    listed = videos_of_epoch([TrainingSet(root=folder)], data)
    counts = dict(zip([video.path.name for video in listed.videos], listed.epoch.windows.tolist(), strict=True))
    assert counts.pop("long.mp4") == 8
    assert set(counts.values()) == {1}
    assert listed.epoch.num_samples == 12
    others = replace(listed, videos=[video for video in listed.videos if video.path.name != "long.mp4"], plan=None)
    read = VideoIndex.lengths

    def lengths(index: VideoIndex) -> dict[str, tuple[int, float]]:
        monkeypatch.setattr(VideoIndex, "lengths", read)
        assert windows_of(others, [folder], data) == [1] * 4  # another run that starts on some of the videos
        return index.lengths()

    monkeypatch.setattr(VideoIndex, "lengths", lengths)
    assert windows_of(listed, [folder], data) == listed.epoch.windows.tolist()
    monkeypatch.setattr(clip_fit, "MOST_WINDOWS", 5)
    assert max(windows_of(listed, [folder], data)) == 5
    assert windows_of(listed, [folder], DataConfig(windows_per_video=3)) == [3] * 5
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="point XDG_CACHE_HOME to a folder"):
        windows_of(listed, [folder], data)


def test_a_few_long_videos_are_not_warned_of_as_few(tmp_path: Path) -> None:
    """Eight videos, of 25 windows each: the batch and the queue of 200 samples."""
    sets = [TrainingSet(root=make_videos(tmp_path, num_per_class=5))]
    few = training_videos(sets, DataConfig())
    config = with_queue_sizes(with_settings("optim", with_settings("method", queue_size=None), batch_size=64), 200)
    long = videos_of_epoch(sets, DataConfig(windows_per_video=25))
    assert [text.partition(":")[0] for text in warnings_about(config, few)] == [
        "--optim.batch-size 64",
        "--method.queue-size 47",
    ]
    # Where old keys of the query's video are left out, the length of the queue makes none of them a negative.
    excluding = with_settings("method", config, exclude_same_video=True)
    assert [text.partition(":")[0] for text in warnings_about(excluding, few)] == ["--optim.batch-size 64"]
    assert warnings_about(config, long) == []
    moco = with_settings("method", config, name="moco", instance_weight=0.05)
    (weight,) = warnings_about(moco, long)
    assert weight.startswith("--method.instance-weight 0.05: MoCo has this loss alone")
    assert warnings_about(with_settings("optim", moco, name="adamw"), long) == []
    (batch,) = warnings_about(with_settings("optim", config, batch_size=256), long)
    assert batch.endswith("more than the 200 samples of an epoch; each step sees all of them, choose 200 or less")


def test_windows_of_a_span_are_refused() -> None:
    with pytest.raises(ConfigError, match="a span is a share of the whole video"):
        DataConfig(windows_per_video="auto", span=(0.5, 1.0))
    with pytest.raises(ConfigError, match="must be `auto` or at least 1"):
        DataConfig(windows_per_video=0)
