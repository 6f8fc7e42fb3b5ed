"""The share of the activation on the moving object: what the frame difference adds, and its batch statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fima.backbones.registry import build_backbone
from fima.data.datasets import VideoList, list_videos
from fima.data.eval_clips import ClipSettings
from fima.errors import DataError
from fima.evaluate.cam import adapted_to_differences, foreground_share
from fima.evaluate.extract import Resources, decoded_clips
from fima.evaluate.features import encode_difference
from tests.video_files import write_video

VIDEOS = Resources(batch_size=8)
CLIPS = ClipSettings(frames=4, crop_size=32, num_clips=2)
LEFT, RIGHT = slice(4, 16), slice(24, 36)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    """A bright still patch on the left, and on the right a patch as dark as the background that flickers."""
    root = tmp_path_factory.mktemp("foreground")
    for name in ("a/0.avi", "a/1.avi", "b/2.avi", "b/3.avi"):
        frames = np.full((12, 40, 40, 3), 60, dtype=np.uint8)
        frames[:, 14:26, LEFT] = 250
        frames[::4, 14:26, RIGHT] = 20
        frames[2::4, 14:26, RIGHT] = 100
        write_video(root / name, frames)
    return list_videos(root, "all")


def mask_of(columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros((12, 40, 40), dtype=np.bool_)
    mask[:, 14:26, columns] = True
    return mask


class Deviation(nn.Module):
    """Responds to bright pixels in RGB, and in a difference, where a still pixel is 0.5, to change."""

    def forward(self, x: Tensor) -> Tensor:
        still = (0.5 - 0.43216) / 0.22803
        is_difference = (x[:, :1, :, :4, :4] - still).abs().amax() < 0.1
        return 8 * (x[:, :1] - still).abs() if is_difference else x[:, :1]


def test_map_of_the_difference_finds_what_moves(videos: VideoList) -> None:
    """RGB alone points at the still patch; with the difference the moving one gets its part."""
    shares = {
        name: foreground_share(Deviation(), videos, lambda _, columns=columns: mask_of(columns), CLIPS, VIDEOS)  # type: ignore[misc]
        for name, columns in (("still", LEFT), ("moving", RIGHT))
    }
    still, moving = shares["still"].figures, shares["moving"].figures
    assert still["rgb_share"] > 60
    assert moving["rgb_share"] < shares["moving"].chance["rgb_share"]
    assert moving["share"] > 40
    assert still["share"] < still["rgb_share"] - 30
    assert " 0 test videos" in shares["still"].settings["batch_norm"]


def encoder() -> nn.Module:
    torch.manual_seed(0)
    network = build_backbone("tiny")
    with torch.no_grad():
        for _ in range(5):  # running statistics that are of something else
            network.train()(2 + torch.randn(4, 3, 4, 32, 32))
    return network.eval()


def test_batch_norm_sees_the_statistics_of_differences(videos: VideoList) -> None:
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adapted, num_used = adapted_to_differences(network, videos, CLIPS, Resources(batch_size=4))
    assert num_used == 4
    assert not any(module.training for module in adapted.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    paths = [video.path for video in videos.videos]
    clips = torch.cat([clips.flatten(0, 1) for _, clips in decoded_clips(paths, CLIPS, Resources())])
    # One batch of all the videos: its own statistics are those that were measured, but for the variance's n - 1.
    expected = encode_difference(encoder().train(), clips)
    found, unadapted = (encode_difference(each, clips) for each in (adapted, network))
    assert float((found - expected).abs().mean()) < 0.05 * float(expected.std())
    assert float((unadapted - expected).abs().mean()) > 0.3 * float(expected.std())


def test_crops_do_not_change_the_share_and_the_original_resolution_does(videos: VideoList) -> None:
    def chance(settings: ClipSettings) -> float:
        return foreground_share(Deviation(), videos, lambda _: mask_of(RIGHT), settings, VIDEOS).chance["share"]

    assert chance(replace(CLIPS, num_crops=3)) == chance(CLIPS)
    # The crop of 24 pixels ends at column 32: it holds 8 of the patch's 12 columns, among fewer pixels.
    assert chance(replace(CLIPS, ori_resolution=27)) == pytest.approx(100 * 8 * 12 / 24**2, rel=0.05)


def test_maps_that_are_not_finite_are_no_even_maps(videos: VideoList) -> None:
    """They had the share of an even map: that of chance."""

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, :1] > 0, torch.nan, x[:, :1])

    with pytest.raises(DataError, match="NaN or infinite maps"):
        foreground_share(Broken(), videos, None, CLIPS, VIDEOS)

    class Even(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    even = foreground_share(Even(), videos, None, CLIPS, VIDEOS)
    assert even.figures == pytest.approx(even.chance)
