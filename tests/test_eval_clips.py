from pathlib import Path

import numpy as np
import pytest
import torch

from fima.data.datasets import list_videos
from fima.data.eval_clips import (
    ClipSettings,
    EvalBatch,
    EvalClipsDataset,
    NumCrops,
    build_eval_loader,
    square_crops,
)
from fima.data.views import crop_and_resize
from tests.video_files import decode_all, write_h264_mp4, write_ucf101_avi


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_h264_mp4(root / "a" / "0.mp4", num_frames=30)
    (root / "a" / "1.avi").write_bytes(b"nothing")
    write_ucf101_avi(root / "b" / "2.avi", num_frames=5)
    return root


def places(
    width: int, height: int, num_crops: NumCrops = 1, ori_resolution: int | None = None
) -> list[tuple[int, int, int]]:
    """Left, top and side of the crops, which are squares inside the frame."""
    crops = square_crops(width, height, num_crops, ori_resolution)
    for crop in crops:
        assert crop.width == crop.height
        assert 0 <= crop.left <= width - crop.width
        assert 0 <= crop.top <= height - crop.height
        assert not crop.flipped
    return [(crop.left, crop.top, crop.width) for crop in crops]


def test_centre_crop_is_a_share_of_the_short_side() -> None:
    assert places(340, 256) == [(58, 16, 224)]
    assert places(256, 340) == [(16, 58, 224)]
    assert places(1, 3) == [(0, 1, 1)]


def test_three_crops_lie_along_the_longer_side() -> None:
    assert places(340, 256, 3) == [(0, 16, 224), (58, 16, 224), (116, 16, 224)]
    assert places(256, 340, 3) == [(16, 0, 224), (16, 58, 224), (16, 116, 224)]
    assert places(256, 256, 3) == [(0, 16, 224), (16, 16, 224), (32, 16, 224)]


def test_original_resolution_fixes_the_crop_in_source_pixels() -> None:
    # UCF101 is 320 x 240: 0.875 of 256 are 224 of its 240 rows; its own 0.875 would be 210.
    assert places(320, 240, 1, 256) == [(48, 8, 224)]
    assert places(320, 240) == [(55, 15, 210)]
    assert places(320, 240, 3, 256) == [(0, 8, 224), (48, 8, 224), (96, 8, 224)]
    assert places(320, 200, 1, 256) == [(60, 0, 200)]
    assert places(1280, 720, 1, 256) == [(528, 248, 224)]


def test_clips_are_evenly_spread_at_stride_two(folder: Path) -> None:
    dataset = EvalClipsDataset(list_videos(folder, "all"), ClipSettings(frames=4, crop_size=16, num_clips=3))
    sample = dataset[0]
    frames = decode_all(folder / "a" / "0.mp4")
    (crop,) = square_crops(64, 48)
    expected = [crop_and_resize(frames[start : start + 8 : 2], crop, 16) for start in (0, 11, 22)]
    assert torch.equal(sample.clips[0], torch.stack(expected))
    assert (sample.labels.tolist(), sample.index.tolist()) == ([0], [0])


def test_short_videos_are_looped(folder: Path) -> None:
    dataset = EvalClipsDataset(list_videos(folder, "all"), ClipSettings(frames=4, crop_size=16, num_clips=2))
    sample = dataset[2]
    frames = decode_all(folder / "b" / "2.avi")
    expected = crop_and_resize(frames[np.array([0, 2, 4, 1])], square_crops(48, 48)[0], 16)
    assert torch.equal(sample.clips[0], torch.stack([expected, expected]))


def test_broken_videos_are_reported(folder: Path) -> None:
    batch = EvalClipsDataset(list_videos(folder, "all"), ClipSettings(frames=4, crop_size=16, num_clips=2))[1]
    assert len(batch.clips) == 0
    (skip,) = batch.skipped
    assert (skip.path, skip.index) == (str(folder / "a" / "1.avi"), 1)
    assert "cannot be opened" in skip.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_the_order(workers: int, folder: Path) -> None:
    def batches(batch_size: int) -> list[EvalBatch]:
        videos = list_videos(folder, "all")
        loader = build_eval_loader(
            videos, ClipSettings(frames=4, crop_size=16, num_clips=2), batch_size=batch_size, workers=workers
        )
        return list(loader)

    together = batches(3)
    assert len(together) == 1
    assert together[0].clips.shape == (2, 2, 3, 4, 16, 16)
    assert together[0].index.tolist() == [0, 2]
    assert together[0].labels.tolist() == [0, 1]
    assert [skip.index for skip in together[0].skipped] == [1]
    singly = batches(1)
    assert [len(batch.index) for batch in singly] == [1, 0, 1]
    assert singly[1].clips.shape == (0, 2, 3, 4, 16, 16)
    assert torch.equal(torch.cat([batch.clips for batch in singly]), together[0].clips)


def test_crops_of_a_clip_follow_one_another(folder: Path) -> None:
    videos = list_videos(folder, "all")
    sample = EvalClipsDataset(
        videos, ClipSettings(frames=4, crop_size=16, num_clips=2, num_crops=3, ori_resolution=32)
    )[0]
    frames = decode_all(folder / "a" / "0.mp4")
    crops = square_crops(64, 48, 3, 32)
    assert crops[0].width == 28
    expected = [crop_and_resize(frames[start : start + 8 : 2], crop, 16) for start in (0, 22) for crop in crops]
    assert torch.equal(sample.clips[0], torch.stack(expected))
    single = EvalClipsDataset(videos, ClipSettings(frames=4, crop_size=16, num_clips=2, ori_resolution=32))[0]
    assert torch.equal(single.clips, sample.clips[:, 1::3])


@pytest.mark.parametrize("wanted", [[2, 1], [0], []])
def test_only_the_wanted_videos_are_read(wanted: list[int], folder: Path) -> None:
    loader = build_eval_loader(
        list_videos(folder, "all"),
        ClipSettings(frames=4, crop_size=16, num_clips=2, num_crops=3),
        batch_size=1,
        workers=0,
        indices=wanted,
    )
    batches = list(loader)
    assert len(loader) == len(batches) == len(wanted)
    for place, batch in zip(wanted, batches, strict=True):
        assert batch.clips.shape == (place != 1, 6, 3, 4, 16, 16)
        assert [*batch.index.tolist(), *(video.index for video in batch.skipped)] == [place]
