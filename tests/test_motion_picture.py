"""The method's view of a video: its clips, foreground cells and matches, and the picture of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fima.cli import main
from fima.config import PretrainConfig
from fima.data.views import Crop, crop_and_resize
from fima.errors import VideoError
from fima.evaluate.activation import ViewEncoders
from fima.method.foreground import foreground_mask
from fima.method.losses import positive_pairs
from fima.visual.motion_picture import MotionView, draw_motion, motion_view
from tests.small_runs import with_settings
from tests.video_files import decode_all, moving_square, write_video

CPU = torch.device("cpu")
CONFIG = with_settings("data", frames=4, crop_size=64, min_area=0.5)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("motion") / "square.avi", moving_square(40))


class Cells(nn.Module):
    """A feature map of the clip's own brightness, 4 x 4 cells."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool3d(x, (1, 4, 4))


def view_of(video: Path, config: PretrainConfig = CONFIG, *, seed: int = 0, encoder: bool = True) -> MotionView:
    encoders = ViewEncoders(rgb=Cells(), difference=None) if encoder else None
    return motion_view(video, config, encoders=encoders, device=CPU, seed=seed)


def test_the_views_are_the_crops_of_the_frames(video: Path) -> None:
    found = view_of(video)
    frames = decode_all(video)
    for clip in (found.a, found.b):
        numbers = [clip.first_frame + 2 * step for step in range(4)]
        np.testing.assert_array_equal(clip.frames, frames[numbers])
        assert clip.view.shape == (3, 4, 64, 64)
        assert clip.difference.shape == (3, 4, 64, 64)
        moved = (clip.view[:, 1].float() - clip.view[:, 0].float()) / 255
        torch.testing.assert_close(clip.difference[:, 1] * 2 - 1, moved)
    assert found.a.first_frame != found.b.first_frame


def test_foreground_and_matches_are_those_of_the_method(video: Path) -> None:
    found = view_of(video)
    heat = torch.stack([Cells()(clip.view[None].float())[0].mean(dim=(0, 1)) for clip in (found.a, found.b)])
    masks = foreground_mask(heat)
    assert torch.equal(found.a.mask, masks[0])
    assert torch.equal(found.b.mask, masks[1])
    boxes = torch.stack([found.a.box, found.b.box])
    expected = positive_pairs(boxes[:1], boxes[1:], masks[:1], masks[1:], pos_ratio=CONFIG.method.pos_ratio)[0]
    assert torch.equal(found.pairs, expected)
    assert "activation" in found.source


def test_without_an_encoder_the_moving_cells_are_foreground(video: Path) -> None:
    found = view_of(video, encoder=False)
    assert found.a.mask.shape == (2, 2)
    assert "frame difference" in found.source
    everything = view_of(video, replace(CONFIG, method=replace(CONFIG.method, foreground=False)), encoder=False)
    assert everything.a.mask.all()


def test_the_seed_decides(video: Path) -> None:
    first, again, other = (view_of(video, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.a.box, again.a.box)
    assert torch.equal(first.b.view, again.b.view)
    assert not torch.equal(first.a.box, other.a.box)


@pytest.mark.parametrize("seed", range(4))
def test_same_crop_of_both_clips_matches_each_cell_with_itself(video: Path, seed: int) -> None:
    config = with_settings("data", CONFIG, clip_sampling="same", min_area=1.0)
    found = view_of(video, replace(config, method=replace(config.method, foreground=False, pos_ratio=0.3)), seed=seed)
    expected = torch.eye(16, dtype=torch.bool).view(4, 4, 4, 4)
    if (found.a.box[0] > found.a.box[2]) != (found.b.box[0] > found.b.box[2]):
        expected = expected.flip(3)
    assert torch.equal(found.pairs.view(4, 4, 4, 4), expected)


def test_the_box_lies_where_the_crop_was_cut(video: Path) -> None:
    """Cutting the box out of the frames again gives the view."""
    found = view_of(video)
    height, width = found.a.frames.shape[1:3]
    for clip in (found.a, found.b):
        x0, y0, x1, y1 = clip.box.tolist()
        left, right = round(min(x0, x1) * (width - 1)), round(max(x0, x1) * (width - 1))
        top, bottom = round(y0 * (height - 1)), round(y1 * (height - 1))
        crop = Crop(left=left, top=top, width=right - left + 1, height=bottom - top + 1, flipped=x0 > x1)
        assert torch.equal(crop_and_resize(clip.frames, crop, 64), clip.view)


def test_picture_is_drawn_with_and_without_matches(video: Path, tmp_path: Path) -> None:
    found = view_of(video)
    none = replace(found, pairs=torch.zeros_like(found.pairs))
    for name, view in (("some", found), ("none", none)):
        draw_motion(view, tmp_path / f"{name}.png", title="a title")
    some, without = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("some", "none"))
    assert some.shape == without.shape
    assert (some != without).any(axis=2).sum() > 200


def test_a_short_video_is_looped_and_a_broken_one_named(tmp_path: Path) -> None:
    short = write_video(tmp_path / "short.avi", moving_square(3))
    assert view_of(short).a.frames.shape[0] == 4
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no video")
    with pytest.raises(VideoError, match="broken"):
        view_of(broken)


def test_command(video: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["motion", str(video), "--device", "cpu"]) == 0
    assert "foreground by frame difference (no --checkpoint given)" in capsys.readouterr().out
    assert (tmp_path / "square_motion.png").read_bytes().startswith(b"\x89PNG")
    assert main(["motion", str(video), "--out", "x.mp4"]) == 2
    assert "--out x.mp4: must end in .png" in capsys.readouterr().err
    assert main(["motion", "none.avi"]) == 2
    assert "none.avi" in capsys.readouterr().err


def test_command_with_a_checkpoint(video: Path, pretrained: Path, tmp_path: Path, capsys: Capture) -> None:
    argv = ["motion", str(video), "--checkpoint", str(pretrained), "--out", str(tmp_path / "m.png"), "--seed", "3"]
    assert main([*argv, "--device", "cpu"]) == 0
    assert "foreground by fima tiny, 1 epoch" in capsys.readouterr().out
    assert (tmp_path / "m.png").exists()
