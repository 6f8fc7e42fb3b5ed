import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from fima.config import DataConfig
from fima.data.datasets import Video, VideoList, list_videos
from fima.data.decode import video
from fima.data.decode.container import open_video
from fima.data.decode.kept import VideoStore
from fima.data.decode.video import VideoReader
from fima.data.epoch_plan import EpochPlan, EpochSampler
from fima.data.loader import (
    MAX_TRIES,
    PretrainBatch,
    PretrainDataset,
    build_pretrain_loader,
    drawn_timing,
)
from fima.data.workers.crash_guard import init_worker
from fima.errors import ConfigError, VideoError
from tests.video_files import damage, write_h264_mp4, write_ucf101_avi

DATA = DataConfig(frames=4, crop_size=16, workers=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for index in range(7):
        write_ucf101_avi(root / "ab"[index % 2] / f"{index}.avi", num_frames=5 + 3 * index, seed=index)
    return root


@pytest.fixture
def videos(folder: Path) -> VideoList:
    return list_videos(folder, "all")


@pytest.fixture
def with_broken(videos: VideoList, tmp_path: Path) -> VideoList:
    (tmp_path / "broken.avi").write_bytes(b"RIFF no video")
    return replace(videos, videos=[*videos.videos, Video(tmp_path / "broken.avi", 0)])


def tensors(batch: PretrainBatch) -> list[Tensor]:
    clips = [value for views in (batch.a, batch.b) for value in vars(views).values()]
    return [*clips, batch.draws_a, batch.draws_b, batch.index, batch.labels]


def assert_equal_batches(first: list[PretrainBatch], second: list[PretrainBatch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.paths == other.paths
        assert one.skipped == other.skipped
        for tensor, expected in zip(tensors(one), tensors(other), strict=True):
            assert torch.equal(tensor, expected)


def test_shapes_of_a_batch(videos: VideoList) -> None:
    loader = build_pretrain_loader(videos, DATA, batch_size=3, seed=0)
    batches = list(loader)
    assert [len(batch.paths) for batch in batches] == [3, 3, 1]
    assert len(loader) == 3
    batch = batches[0]
    for views in (batch.a, batch.b):
        for view in (views.full, views.early, views.late):
            assert view.shape == (3, 3, 4, 16, 16)
            assert view.dtype == torch.uint8
        assert views.box.shape == (3, 4)
    assert batch.draws_a.shape == batch.draws_b.shape == (3, 4, 11)
    assert sorted(int(i) for batch in batches for i in batch.index) == list(range(7))
    for index, path, label in zip(batch.index.tolist(), batch.paths, batch.labels.tolist(), strict=True):
        assert videos.videos[index] == Video(Path(path), label)
    assert not batch.skipped


def test_unknown_labels(folder: Path) -> None:
    batch = next(iter(build_pretrain_loader(list_videos(folder / "a"), DATA, batch_size=2, seed=0)))
    assert batch.labels.tolist() == [-1, -1]


def test_workers_change_nothing(with_broken: VideoList) -> None:
    epochs = []
    for workers in (0, 1, 2):
        loader = build_pretrain_loader(with_broken, replace(DATA, workers=workers), batch_size=3, seed=5)
        batches = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            batches += list(loader)
        epochs.append(batches)
    assert_equal_batches(epochs[0], epochs[1])
    assert_equal_batches(epochs[0], epochs[2])
    assert sum(len(batch.skipped) for batch in epochs[0]) == 2


def test_everything_follows_from_seed_epoch_and_index(videos: VideoList) -> None:
    def item(seed: int, epoch: int, index: int) -> Tensor:
        return PretrainDataset(videos, DATA, seed)[epoch, index].a.full

    assert torch.equal(item(0, 0, 6), item(0, 0, 6))
    for other in (item(1, 0, 6), item(0, 1, 6), item(0, 0, 5)):
        assert not torch.equal(item(0, 0, 6), other)


def test_kept_videos_give_the_same_batches(with_broken: VideoList, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(megabytes: int) -> list[PretrainBatch]:
        loader = build_pretrain_loader(with_broken, replace(DATA, keep_mb=megabytes), batch_size=3, seed=5)
        found = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            found += list(loader)
        return found

    read: list[Path] = []
    opening = VideoReader.__init__

    def opened(self: VideoReader, path: Path, **options: bool) -> None:
        opening(self, path, **options)
        read.append(path)

    plain = batches(0)
    monkeypatch.setattr(VideoReader, "__init__", opened)
    assert_equal_batches(plain, batches(100))
    assert len(read) == len(set(read)) > 1, "each is opened once in two epochs"
    store, path = VideoStore(0), with_broken.videos[0].path
    with store.open(path) as first, store.open(path) as second:
        assert first is not second


def test_a_video_that_is_damaged_in_part_is_used_as_if_nothing_were_kept(tmp_path: Path) -> None:
    for name in "ab":
        write_h264_mp4(tmp_path / f"{name}.mp4", num_frames=64)
    damage(tmp_path / "a.mp4", 0.6, 0.62)
    videos = list_videos(tmp_path, "all")
    kept, plain = (PretrainDataset(videos, replace(DATA, keep_mb=megabytes), 0) for megabytes in (100, 0))
    pairs = [(kept[epoch, 0], plain[epoch, 0]) for epoch in range(8)]
    assert_equal_batches(*zip(*pairs, strict=True))  # type: ignore[arg-type]
    assert {len(batch.skipped) for batch, _ in pairs} == {0, 1}


def test_a_span_is_drawn_and_the_clip_covers_it(videos: VideoList) -> None:
    def first_and_last(data: DataConfig, epoch: int) -> float:
        sample = PretrainDataset(videos, data, 0)[epoch, 6]
        return float((sample.a.full.float() - sample.b.full.float()).abs().mean())

    whole = replace(DATA, span=(1.0, 1.0), min_area=1.0, flip=0.0)
    assert first_and_last(whole, 0) < first_and_last(replace(whole, span=(0.4, 0.5)), 0)
    drawn = [drawn_timing(replace(DATA, span=(0.6, 0.9)), np.random.default_rng(seed)).span for seed in range(50)]
    assert 0.6 <= min(drawn) < 0.65
    assert 0.85 < max(drawn) <= 0.9
    assert drawn_timing(DATA, np.random.default_rng(0)).span == 0


def test_the_two_clips_differ(videos: VideoList) -> None:
    sample = PretrainDataset(videos, DATA, 0)[0, 6]
    assert not torch.equal(sample.a.full, sample.b.full)
    assert not torch.equal(sample.draws_a, sample.draws_b)


def test_only_frames_of_wanted_views_are_converted(videos: VideoList, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int | None] = []
    rgb = VideoReader._rgb

    def counted(reader: VideoReader, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        converted.append(frame.pts)
        return rgb(reader, frame)

    monkeypatch.setattr(VideoReader, "_rgb", counted)
    opened: list[Path] = []
    opens = open_video

    def noted(path: Path, *, probe: bool) -> tuple[InputContainer, VideoStream]:
        opened.append(path)
        return opens(path, probe=probe)

    monkeypatch.setattr(video, "open_video", noted)
    for index in range(len(videos.videos)):
        converted.clear()
        opened.clear()
        all_views = PretrainDataset(videos, DATA, 0)[0, index]
        assert len(converted) == len(set(converted)) <= 4 * DATA.frames
        assert len(opened) == 1
        of_all = set(converted)
        converted.clear()
        full_only = PretrainDataset(videos, DATA, 0, frame_views=False)[0, index]
        assert len(converted) == len(set(converted)) <= 2 * DATA.frames
        assert set(converted) <= of_all
        for one, other in ((all_views.a, full_only.a), (all_views.b, full_only.b)):
            assert torch.equal(one.full, other.full)
            assert torch.equal(one.box, other.box)
            assert other.early.shape[2] == other.late.shape[2] == 0


def test_the_global_random_state_is_neither_read_nor_changed(videos: VideoList) -> None:
    torch.manual_seed(1)
    first = list(build_pretrain_loader(videos, DATA, batch_size=4, seed=0))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    np.random.seed(3)
    torch.manual_seed(2)
    assert_equal_batches(first, list(build_pretrain_loader(videos, DATA, batch_size=4, seed=0)))


def test_resuming_inside_an_epoch(videos: VideoList) -> None:
    loader = build_pretrain_loader(videos, DATA, batch_size=2, seed=0)
    loader.set_epoch(3)
    whole = list(loader)
    resumed = build_pretrain_loader(videos, DATA, batch_size=2, seed=0)
    resumed.set_epoch(3, start_step=2)
    assert_equal_batches(whole[2:], list(resumed))
    assert len(resumed) == 4


def test_broken_videos_are_replaced_and_reported(with_broken: VideoList) -> None:
    dataset = PretrainDataset(with_broken, DATA, 0)
    replacements = set()
    for epoch in range(12):
        sample = dataset[epoch, 7]
        index = int(sample.index)
        assert index != 7
        assert sample.paths == [str(with_broken.videos[index].path)]
        assert [(skip.epoch, skip.index, skip.path) for skip in sample.skipped] == [
            (epoch, 7, str(with_broken.videos[7].path))
        ]
        assert "cannot be opened" in sample.skipped[0].reason
        assert dataset[epoch, 7].index == index
        replacements.add(index)
    assert len(replacements) > 3
    sample = dataset[0, 7]
    assert not torch.equal(sample.a.full, dataset[0, int(sample.index)].a.full)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_videos(count: int, workers: int, with_broken: VideoList) -> None:
    broken = replace(with_broken, videos=[with_broken.videos[-1]] * count)
    loader = build_pretrain_loader(broken, replace(DATA, workers=workers), batch_size=2, seed=0)
    reason = f"; {MAX_TRIES} videos in a row" if count > 1 else r"\)$"
    with pytest.raises(VideoError, match=rf"broken\.avi: cannot be opened .*{reason}"):
        next(iter(loader))


def indices(sampler: EpochSampler) -> list[list[int]]:
    return [[index for _, index in batch] for batch in sampler]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = EpochSampler(EpochPlan.plain(20), 6, seed)
        sampler.set_epoch(epoch)
        assert all(batch_epoch == epoch for batch in sampler for batch_epoch, _ in batch)
        return indices(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert [len(batch) for batch in order(0, 1)] == [6, 6, 6, 2]
    assert sorted(chain(*order(0, 1))) == list(range(20))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_videos", [1, 12, 17, 20])
def test_processes_share_the_global_batches(world_size: int, num_videos: int) -> None:
    whole = indices(EpochSampler(EpochPlan.plain(num_videos), 6, 4))
    shares = [indices(EpochSampler(EpochPlan.plain(num_videos), 6, 4, rank, world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(whole)}
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert len({len(part) for part in parts}) == 1
        together = list(chain(*parts))
        assert together[: len(batch)] == batch
        padding = len(together) - len(batch)
        assert padding < world_size
        assert together[len(batch) :] == (list(chain(*whole)) * world_size)[:padding]


def test_batches_that_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match=r"--optim\.batch-size 10"):
        EpochSampler(EpochPlan.plain(20), 10, 0, 0, 4)


def test_moving_a_batch_leaves_the_draws_on_the_host(videos: VideoList) -> None:
    batch = next(iter(build_pretrain_loader(videos, DATA, batch_size=2, seed=0))).to("meta")
    assert batch.a.full.device.type == batch.b.box.device.type == "meta"
    assert batch.draws_a.device.type == batch.labels.device.type == "cpu"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_ignore_interrupts_and_use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, object]] = []

    def record(number: int, action: object) -> None:
        calls.append((number, action))

    monkeypatch.setattr(os, "setpgid", record)

    def keep(threads: int) -> None:
        assert threads == 1

    monkeypatch.setattr(signal, "signal", record)
    monkeypatch.setattr(torch, "set_num_threads", keep)
    worker: Callable[[int], None] = init_worker
    worker(0)
    assert set(calls) == {(0, 0), (signal.SIGINT, signal.SIG_IGN), (signal.SIGUSR1, signal.SIG_IGN)}


def test_more_processes_than_cores_need_no_advice(videos: VideoList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        next(iter(build_pretrain_loader(videos, replace(DATA, workers=2), batch_size=2, seed=0)))
    assert [str(warning.message) for warning in seen if "DataLoader" in str(warning.message)] == []
