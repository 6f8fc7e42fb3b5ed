"""Features: what encoders see, and that a video is looked at once: across calls, lists and processes."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fima.data.datasets import Video, VideoList, list_videos
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.errors import ConfigError, DataError, VideoError
from fima.evaluate import feature_store
from fima.evaluate.extract import Resources, VideoRows
from fima.evaluate.feature_store import FeatureStore, FileState, fill_together
from fima.evaluate.features import (
    EncoderMaps,
    FeatureSource,
    cells_source,
    encode,
    encode_difference,
    encoder_source,
    raw_difference_features,
)
from fima.torch_tools.distributed import gather_objects, is_main
from tests.evaluation_data import BRIGHTNESS, brightness_features, extract_features
from tests.gloo import run_processes
from tests.test_stages import TwoLayers

CPU = torch.device("cpu")
CLIPS = ClipSettings(frames=4, crop_size=32, num_clips=2)


class CountingReader(VideoReader):
    """Counts the videos that are opened."""

    opened: list[Path]

    def __init__(self, path: Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        self.opened.append(path)
        super().__init__(path, *args, **kwargs)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    CountingReader.opened = []
    monkeypatch.setattr("fima.evaluate.extract.VideoReader", CountingReader)
    return CountingReader.opened


def test_encoder_sees_normalised_pixels() -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    expected = (clips.double() / 255 - torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1, 1)) / torch.tensor(
        [0.22803, 0.22145, 0.216989]
    ).view(3, 1, 1, 1)
    torch.testing.assert_close(encode(nn.Identity(), clips).double(), expected, atol=1e-5, rtol=1e-5)
    pooled = encoder_source(nn.Identity(), "pixels").pool(clips)
    torch.testing.assert_close(pooled.double(), expected.mean(dim=(2, 3, 4)), atol=1e-5, rtol=1e-5)


def test_raw_difference_features_against_a_loop() -> None:
    clips = torch.randint(0, 256, (1, 3, 3, 16, 16), dtype=torch.uint8)
    found = raw_difference_features(clips)
    assert found.shape == (1, 2 * 65)
    for pair in range(2):
        change = (clips[0, :, pair + 1].double() - clips[0, :, pair].double()).abs().mean(dim=0) / 255
        for row in range(8):
            for column in range(8):
                cell = change[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
                assert float(found[0, 64 * pair + 8 * row + column]) == pytest.approx(float(cell), abs=1e-6)
        assert float(found[0, 128 + pair]) == pytest.approx(float(change.mean()), abs=1e-6)


def test_encoder_sees_the_normalised_frame_difference() -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    pixels = clips.double() / 255
    found = encode_difference(nn.Identity(), clips).double()
    for frame in range(4):
        change = (pixels[:, 1, frame] - pixels[:, 1, frame - 1] + 1) / 2
        torch.testing.assert_close(found[:, 1, frame], (change - 0.394666) / 0.22145, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"num_clips": 0}, "--num-clips 0"), ({"crop_size": 4}, "--crop-size 4"), ({"ori_resolution": 1}, "resolution 1")],
)
def test_wrong_clip_settings_name_the_flag(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        ClipSettings(**{"frames": 4, "crop_size": 32, **settings})


def test_lists_that_share_videos_decode_each_once(splits: Path, opened: list[Path]) -> None:
    store = FeatureStore(BRIGHTNESS, CLIPS, Resources())
    lists = [list_videos(splits, part, number) for number in (1, 2, 3) for part in ("train", "test")]
    store.fill(video.path for videos in lists for video in videos.videos)
    assert len(opened) == len(set(opened)) == 18
    store.fill(video.path for videos in lists for video in videos.videos)
    assert len(opened) == 18
    for videos in lists:
        found = store.read(videos)
        assert found.paths == [str(video.path) for video in videos.videos]
        assert found.labels.tolist() == [video.label for video in videos.videos]
        alone = extract_features(BRIGHTNESS, videos, CLIPS, device=CPU)
        assert torch.equal(found.pooled, alone.pooled)


def test_the_cache_is_of_videos_and_not_of_lists(splits: Path, tmp_path: Path, opened: list[Path]) -> None:
    def extract(videos: VideoList) -> Tensor:
        return extract_features(BRIGHTNESS, videos, CLIPS, device=CPU, cache=tmp_path).pooled

    train, test = list_videos(splits, "train", 1), list_videos(splits, "test", 1)
    first = extract(train)
    extract(test)
    assert len(opened) == 18
    other = list_videos(splits, "train", 2)
    reread = extract(other)
    assert torch.equal(extract(train), first)
    assert len(opened) == 18
    assert torch.equal(reread, extract_features(BRIGHTNESS, other, CLIPS, device=CPU).pooled)


def paths_of(videos: VideoList) -> list[Path]:
    return [video.path for video in videos.videos]


def counting(name: str) -> tuple[FeatureSource, list[int]]:
    calls: list[int] = []

    def pool(clips: Tensor) -> Tensor:
        calls.append(len(clips))
        return brightness_features(clips)

    return FeatureSource(name=name, pool=pool), calls


def test_cache_serves_until_checkpoint_settings_or_a_file_change(splits: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    copies = []
    for number, video in enumerate(list_videos(splits, "test").videos[:4]):
        copies.append(Video(path=tmp_path / f"{number}.avi", label=video.label))
        copies[-1].path.write_bytes(video.path.read_bytes())
    videos = VideoList(videos=copies, classes=["a"] * 3, root=tmp_path, split="test", layout="copies")
    source, calls = counting("checkpoint 1")

    def extract(source: FeatureSource, settings: ClipSettings = CLIPS) -> Tensor:
        return extract_features(source, videos, settings, device=CPU, cache=cache).pooled

    first = extract(source)
    assert first.shape == (4, 2, 3)
    assert torch.equal(extract(source), first)
    assert sum(calls) == 8
    other, other_calls = counting("checkpoint 2")
    extract(other)
    assert sum(other_calls) == 8
    for settings in (replace(CLIPS, crop_size=24), replace(CLIPS, ori_resolution=16), replace(CLIPS, frames=2)):
        calls.clear()
        extract(source, settings)
        assert sum(calls) == 8
    calls.clear()
    assert extract(source, replace(CLIPS, num_crops=3)).shape == (4, 6, 3)
    assert sum(calls) == 24
    calls.clear()
    os.utime(copies[0].path, ns=(1, 1))
    extract(source)
    assert sum(calls) == 2
    calls.clear()
    for stored in cache.rglob("*.safetensors"):
        stored.write_bytes(b"damaged")
    assert torch.equal(extract(source), first)
    assert sum(calls) == 8


def test_an_interrupted_extraction_keeps_what_it_had(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Path]
) -> None:
    monkeypatch.setattr(feature_store, "SHARD_VIDEOS", 5)
    videos = list_videos(splits, "train")
    whole = extract_features(BRIGHTNESS, videos, CLIPS, device=CPU).pooled
    opened.clear()

    def interrupt(num_done: int, num_all: int) -> None:
        assert num_all == 12
        if num_done > 9:
            raise KeyboardInterrupt

    store = FeatureStore(BRIGHTNESS, CLIPS, Resources(batch_size=1), cache=tmp_path, report=interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.fill(paths_of(videos))
    assert len(opened) == 10
    opened.clear()
    assert torch.equal(extract_features(BRIGHTNESS, videos, CLIPS, device=CPU, cache=tmp_path).pooled, whole)
    assert len(opened) == 2


def with_broken_video(splits: Path, folder: Path) -> VideoList:
    """Five videos, the second of which cannot be decoded."""
    videos = list_videos(splits, "train")
    broken = Video(path=folder / "broken.avi", label=1)
    if not broken.path.exists():
        broken.path.write_bytes(b"not a video")
    return replace(videos, videos=[videos.videos[0], broken, *videos.videos[1:4]])


def test_undecodable_videos_are_named_also_from_the_cache(splits: Path, tmp_path: Path) -> None:
    videos = with_broken_video(splits, tmp_path)
    good = [videos.videos[place] for place in (0, 2, 3, 4)]
    for _ in range(2):
        found = extract_features(BRIGHTNESS, videos, CLIPS, device=CPU, cache=tmp_path / "cache")
        assert found.paths == [str(video.path) for video in good]
        assert found.labels.tolist() == [video.label for video in good]
        assert [(video.path, video.index) for video in found.undecodable] == [(str(videos.videos[1].path), 1)]
    only = replace(videos, videos=[videos.videos[1]])
    for cache in (None, tmp_path / "other"):
        with pytest.raises(DataError, match=r"none of 1 videos can be decoded.*broken\.avi"):
            extract_features(BRIGHTNESS, only, CLIPS, device=CPU, cache=cache)
    gone = replace(videos, videos=[Video(path=tmp_path / "gone.avi", label=0)])
    with pytest.raises(DataError, match=r"gone\.avi: cannot be read"):
        extract_features(BRIGHTNESS, gone, CLIPS, device=CPU)


def test_a_video_that_could_not_be_read_once_is_tried_again(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may have been away."""
    videos = list_videos(splits, "train")
    away = videos.videos[1].path

    def reader(path: Path) -> VideoReader:
        if path == away:
            raise VideoError(path, "Input/output error")
        return VideoReader(path)

    with monkeypatch.context() as patch:
        patch.setattr("fima.evaluate.extract.VideoReader", reader)
        found = extract_features(BRIGHTNESS, videos, CLIPS, device=CPU, cache=tmp_path / "cache")
    assert [video.path for video in found.undecodable] == [str(away)]
    again = extract_features(BRIGHTNESS, videos, CLIPS, device=CPU, cache=tmp_path / "cache")
    assert again.undecodable == []
    assert len(again.paths) == len(found.paths) + 1


def fill_in_process(_: int, splits: Path, folder: Path) -> dict[str, Any]:
    """Extract in shards of two videos; return what this process decoded, and in the main one what it has."""
    feature_store.SHARD_VIDEOS = 2
    source, calls = counting("shared")
    videos = with_broken_video(splits, folder)
    store = FeatureStore(source, CLIPS, Resources(batch_size=1), cache=folder / "cache")
    store.fill(paths_of(videos))
    result: dict[str, Any] = {"num_clips": sum(calls)}
    if is_main():
        found = store.read(videos)
        result |= {"pooled": found.pooled, "paths": found.paths, "broken": [video.path for video in found.undecodable]}
    calls.clear()
    FeatureStore(source, CLIPS, Resources(), cache=folder / "cache").fill(paths_of(videos))
    # Cells are kept in half precision; a process may have found none.
    cells = VideoRows(index=0, rows=torch.ones(2, 3, 4, dtype=torch.half), seconds=torch.zeros(2, 2).double())
    ((_file, shared),) = gather_objects([(FileState("a.avi", 1, 1), cells)] if is_main() else [])
    assert isinstance(shared, VideoRows)
    return result | {"num_clips_again": sum(calls), "cells": shared.rows}


def test_two_processes_share_the_videos_and_equal_one(splits: Path, tmp_path: Path) -> None:
    videos = with_broken_video(splits, tmp_path)
    first, second = run_processes(fill_in_process, 2, tmp_path / "gloo", splits, tmp_path)
    alone = extract_features(BRIGHTNESS, videos, CLIPS, device=CPU)
    assert first["num_clips"] + second["num_clips"] == 8
    assert min(first["num_clips"], second["num_clips"]) > 0
    assert all(torch.equal(result["cells"], torch.ones(2, 3, 4, dtype=torch.half)) for result in (first, second))
    # The broken video is tried again.
    assert first["num_clips_again"] == second["num_clips_again"] == 0
    assert torch.equal(first["pooled"], alone.pooled)
    assert first["paths"] == alone.paths
    assert first["broken"] == [str(tmp_path / "broken.avi")]


def test_stores_filled_together_decode_and_encode_once(splits: Path, tmp_path: Path, opened: list[Path]) -> None:
    videos, encoder = list_videos(splits, "train"), TwoLayers().eval()
    maps = EncoderMaps(encoder)

    def stores() -> list[FeatureStore]:
        sources = (encoder_source(encoder, "x", ("avg", "max"), maps), cells_source(maps, "x"))
        return [FeatureStore(source, CLIPS, Resources(), cache=tmp_path) for source in sources]

    pooled, cells = stores()
    assert fill_together([pooled, cells], paths_of(videos)) == 12
    assert len(opened) == 12
    assert encoder.num_clips == 24
    found = cells.read(videos)
    assert found.cells[0].shape == (2, 4 * 8 * 8, 5)
    assert found.cells[0].dtype == torch.half
    alone = extract_features(encoder_source(encoder, "x"), videos, CLIPS, device=CPU)
    assert torch.equal(pooled.read(videos).columns("avg"), alone.pooled)
    again = stores()
    assert fill_together(again, paths_of(videos)) == 0
    assert all(torch.equal(a, b) for a, b in zip(again[1].read(videos).cells, found.cells, strict=True))
    (folder,) = (path for path in tmp_path.iterdir() if path == cells.folder)
    for stored in folder.iterdir():
        stored.unlink()
    opened.clear()
    assert fill_together(stores(), paths_of(videos)) == 12  # only the cells are missing
    assert len(opened) == 12


def test_cells_without_room_are_refused(splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fima.evaluate.feature_store.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    store = FeatureStore(cells_source(EncoderMaps(TwoLayers().eval()), "x"), CLIPS, Resources(), cache=tmp_path)
    with pytest.raises(DataError, match=r"cells of 12 videos take 0\.0 GB.*smaller --num-clips"):
        store.fill(paths_of(list_videos(splits, "train")))


def test_features_that_are_not_finite_name_the_videos(splits: Path) -> None:
    def pool(clips: Tensor) -> Tensor:
        bright = clips.float().mean(dim=(1, 2, 3, 4)) > 100
        return torch.where(bright[:, None], torch.nan, brightness_features(clips))

    videos = list_videos(splits, "train")
    with pytest.raises(DataError, match=r"NaN or infinite features for .*v_g\d+\.avi.* and 5 more") as caught:
        extract_features(FeatureSource(name="broken", pool=pool), videos, CLIPS, device=CPU)
    assert "\n" not in str(caught.value)
