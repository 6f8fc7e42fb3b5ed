from pathlib import Path

import numpy as np
import pytest
import torch

from fima.data.datasets import list_videos
from fima.data.eval_clips import EvalBatch, EvalClipsDataset, EvalSample, build_eval_loader, centre_crop
from fima.data.loader import SkippedVideo
from fima.data.views import crop_and_resize
from tests.video_files import decode_all, write_h264_mp4, write_ucf101_avi


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_h264_mp4(root / "a" / "0.mp4", num_frames=30)
    (root / "a" / "1.avi").write_bytes(b"nothing")
    write_ucf101_avi(root / "b" / "2.avi", num_frames=5)
    return root


def test_centre_crop() -> None:
    assert vars(centre_crop(340, 256)) == {"left": 58, "top": 16, "width": 224, "height": 224, "flipped": False}
    assert centre_crop(1, 3).width == 1


def test_clips_are_evenly_spread_at_stride_two(folder: Path) -> None:
    dataset = EvalClipsDataset(list_videos(folder, "all"), frames=4, crop_size=16, num_clips=3)
    sample = dataset[0]
    assert isinstance(sample, EvalSample)
    frames = decode_all(folder / "a" / "0.mp4")
    crop = centre_crop(64, 48)
    expected = [crop_and_resize(frames[start : start + 8 : 2], crop, 16) for start in (0, 11, 22)]
    assert torch.equal(sample.clips, torch.stack(expected))
    assert (sample.label, sample.index) == (0, 0)


def test_short_videos_are_looped(folder: Path) -> None:
    dataset = EvalClipsDataset(list_videos(folder, "all"), frames=4, crop_size=16, num_clips=2)
    sample = dataset[2]
    assert isinstance(sample, EvalSample)
    frames = decode_all(folder / "b" / "2.avi")
    expected = crop_and_resize(frames[np.array([0, 2, 4, 1])], centre_crop(48, 48), 16)
    assert torch.equal(sample.clips, torch.stack([expected, expected]))


def test_broken_videos_are_reported(folder: Path) -> None:
    skip = EvalClipsDataset(list_videos(folder, "all"), frames=4, crop_size=16, num_clips=2)[1]
    assert isinstance(skip, SkippedVideo)
    assert (skip.path, skip.index) == (str(folder / "a" / "1.avi"), 1)
    assert "cannot be opened" in skip.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_the_order(workers: int, folder: Path) -> None:
    def batches(batch_size: int) -> list[EvalBatch]:
        videos = list_videos(folder, "all")
        loader = build_eval_loader(videos, frames=4, crop_size=16, num_clips=2, batch_size=batch_size, workers=workers)
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
