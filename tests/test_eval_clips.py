from pathlib import Path

import numpy as np
import pytest
import torch

from fima.data.datasets import list_videos
from fima.data.eval_clips import ClipSettings, NumCrops, square_crops
from fima.data.loader import SkippedVideo
from fima.data.views import crop_and_resize
from fima.evaluate.extract import Resources, WindowDataset, decoded_clips
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


def clips_of(
    folder: Path, settings: ClipSettings, workers: int = 0, wanted: tuple[int, ...] = (0, 1, 2)
) -> list[tuple[int, torch.Tensor]]:
    """The clips of the wanted videos that can be decoded, with their places among these."""
    paths = [list_videos(folder, "all").videos[place].path for place in wanted]
    return list(decoded_clips(paths, settings, Resources(workers=workers)))


def test_clips_are_evenly_spread_at_stride_two(folder: Path) -> None:
    (place, clips), _ = clips_of(folder, ClipSettings(frames=4, crop_size=16, num_clips=3))
    frames = decode_all(folder / "a" / "0.mp4")
    (crop,) = square_crops(64, 48)
    expected = [crop_and_resize(frames[start : start + 8 : 2], crop, 16) for start in (0, 11, 22)]
    assert place == 0
    assert torch.equal(clips[:, 0], torch.stack(expected))


def test_short_videos_are_looped(folder: Path) -> None:
    _, (place, clips) = clips_of(folder, ClipSettings(frames=4, crop_size=16, num_clips=2))
    frames = decode_all(folder / "b" / "2.avi")
    expected = crop_and_resize(frames[np.array([0, 2, 4, 1])], square_crops(48, 48)[0], 16)
    assert place == 2
    assert torch.equal(clips[:, 0], torch.stack([expected, expected]))


def test_broken_videos_are_reported(folder: Path) -> None:
    paths = [video.path for video in list_videos(folder, "all").videos]
    found = list(WindowDataset(paths, ClipSettings(frames=4, crop_size=16, num_clips=2)))
    (skip,) = (item for item in found if isinstance(item, SkippedVideo))
    assert (skip.path, skip.index) == (str(folder / "a" / "1.avi"), 1)
    assert "cannot be opened" in skip.reason


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_keep_the_order(workers: int, folder: Path) -> None:
    # More clips than are decoded at a time, so that another process is done with its video before.
    settings = ClipSettings(frames=4, crop_size=16, num_clips=9)
    alone, together = (clips_of(folder, settings, number) for number in (0, workers))
    assert [place for place, _ in together] == [0, 2]
    for (_, one), (_, other) in zip(alone, together, strict=True):
        assert one.shape == (9, 1, 3, 4, 16, 16)
        assert torch.equal(one, other)


def test_crops_of_a_clip_follow_one_another(folder: Path) -> None:
    settings = ClipSettings(frames=4, crop_size=16, num_clips=2, num_crops=3, ori_resolution=32)
    _, clips = clips_of(folder, settings)[0]
    frames = decode_all(folder / "a" / "0.mp4")
    crops = square_crops(64, 48, 3, 32)
    assert crops[0].width == 28
    expected = [crop_and_resize(frames[start : start + 8 : 2], crop, 16) for start in (0, 22) for crop in crops]
    assert torch.equal(clips.flatten(0, 1), torch.stack(expected))
    _, single = clips_of(folder, ClipSettings(frames=4, crop_size=16, num_clips=2, ori_resolution=32))[0]
    assert torch.equal(single, clips[:, 1:2])


@pytest.mark.parametrize("wanted", [(2, 1), (0,), ()])
def test_only_the_wanted_videos_are_read(wanted: tuple[int, ...], folder: Path) -> None:
    settings = ClipSettings(frames=4, crop_size=16, num_clips=2, num_crops=3)
    found = clips_of(folder, settings, wanted=wanted)
    assert [wanted[place] for place, _ in found] == [place for place in wanted if place != 1]
    assert all(clips.shape == (2, 3, 3, 4, 16, 16) for _, clips in found)
