"""Pictures: what they show, and the share of activation on the moving object."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fima.backbones.registry import build_backbone
from fima.cli import main
from fima.data.datasets import Video, VideoList, list_videos
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.errors import DataError
from fima.evaluate.activation import ViewEncoders, averaged_map, occlusion_map
from fima.evaluate.cam import clip_masks, foreground_share, moving_pixels, occlusion_share
from fima.evaluate.extract import Resources
from fima.synthetic.motion_textures import MotionTextureSettings, load_mask, make_motion_textures
from fima.visual import contact_sheet as contact_sheet_module
from fima.visual.contact_sheet import contact_sheet
from fima.visual.maps import side_by_side
from fima.visual.overlay import Picture, label
from tests.video_files import write_video

CPU = torch.device("cpu")
VIDEOS = Resources(batch_size=8)
CLIPS = ClipSettings(frames=4, crop_size=32, num_clips=2)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("visual") / "motion"
    make_motion_textures(out, MotionTextureSettings(num_train=20, num_test=10, size_px=40, num_frames=12), workers=0)
    return out


class Flat(nn.Module):
    """Responds everywhere alike."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), 2, 1, 4, 4)


class Corner(nn.Module):
    """Responds in the upper left quarter alone."""

    def forward(self, x: Tensor) -> Tensor:
        features = torch.full((len(x), 2, 1, 32, 32), 5.0)
        features[..., :16, :16] = 7.0
        return features


class Change(nn.Module):
    """Responds where neighbouring frames differ."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, 1:] - x[:, :, :-1]).abs()


def rgb_only(encoder: nn.Module) -> ViewEncoders:
    return ViewEncoders(rgb=encoder, difference=None)


def test_activation_is_the_mean_map_upsampled_bilinearly() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0], [2.0, 3.0]]).expand(len(x), 6, 2, 2, 2)

    found = averaged_map(rgb_only(Fixed()), torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8))
    assert found.shape == (1, 8, 8)
    assert [float(found[0, y, x]) for y, x in ((0, 0), (0, 7), (7, 0), (7, 7))] == [0, 1, 2, 3]
    assert float(found.mean()) == pytest.approx(1.5)


def test_flat_map_gets_the_share_that_the_object_covers(benchmark: Path) -> None:
    found = foreground_share(Flat(), list_videos(benchmark, "test"), load_mask, CLIPS, VIDEOS)
    assert found.settings["num_videos"] == 10
    assert 3 < found.chance["share"] < 30
    assert found.figures["share"] == pytest.approx(found.chance["share"], rel=1e-4)
    assert found.figures["motion_share"] == pytest.approx(found.chance["motion_share"], rel=1e-4)


def test_masks_are_those_of_the_frames_in_a_clip_by_rate(benchmark: Path) -> None:
    """Half of a video's rate is every second frame, which is the published stride."""
    video = list_videos(benchmark, "test").videos[0]
    mask = load_mask(video.path)
    with VideoReader(video.path) as reader:
        rate = reader.fps
    assert rate < 25
    by_rate = clip_masks(mask, replace(CLIPS, fps=rate / 2), video.path)
    assert torch.equal(by_rate, clip_masks(mask, CLIPS, video.path))
    assert not torch.equal(by_rate, clip_masks(mask, replace(CLIPS, stride=1.0), video.path))


def test_share_is_that_of_the_activation_above_the_minimum(benchmark: Path) -> None:
    """Ten frames' masks in one corner: all of the activation is on the object. In another corner: none."""
    videos = list_videos(benchmark, "test")

    def corner(rows: slice, columns: slice) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        mask = np.zeros((12, 40, 40), dtype=np.bool_)
        mask[:, rows, columns] = True
        return mask

    inside = foreground_share(Corner(), videos, lambda _: corner(slice(0, 30), slice(0, 30)), CLIPS, VIDEOS)
    outside = foreground_share(Corner(), videos, lambda _: corner(slice(25, 40), slice(0, 40)), CLIPS, VIDEOS)
    assert inside.figures["share"] == pytest.approx(100)
    assert outside.figures["share"] == pytest.approx(0)


def test_motion_sensitive_encoder_finds_the_object(benchmark: Path) -> None:
    found = foreground_share(Change(), list_videos(benchmark, "test"), load_mask, CLIPS, VIDEOS)
    for name in ("share", "motion_share"):
        assert found.figures[name] > 2 * found.chance[name]


def test_what_moves_is_the_smallest_part_that_holds_half_of_the_change() -> None:
    clips = torch.zeros(3, 3, 5, 4, 6, dtype=torch.uint8)
    clips[0, :, ::2, 1, 2] = 90
    clips[0, :, ::2, 3, 5] = 40
    clips[0, 0, 1, 0, 0] = 5
    clips[1, :, ::2, 0] = 10  # six pixels that change alike: three of them
    found = moving_pixels(clips)
    assert found.shape == (3, 4, 6)
    assert found[0].nonzero().tolist() == [[1, 2]]
    assert found[1].sum() == found[1, 0].sum() == 3
    assert not found[2].any()


def test_without_masks_the_share_is_that_on_what_moves(benchmark: Path, tmp_path: Path) -> None:
    still = write_video(tmp_path / "still.avi", np.full((12, 40, 40, 3), 90, dtype=np.uint8))
    test = list_videos(benchmark, "test")
    videos = VideoList(
        videos=[Video(path=still, label=0), *test.videos[:4]],
        classes=test.classes,
        root=tmp_path,
        split="test",
        layout="",
    )
    masked, found = (foreground_share(Change(), videos, loader, CLIPS, VIDEOS) for loader in (still_mask, None))
    assert found.figures.keys() == {"motion_share", "motion_rgb_share"}
    assert found.figures == {name: masked.figures[name] for name in found.figures}
    assert (found.settings["num_videos"], *(each.settings["num_still_clips"] for each in (found, masked))) == (5, 2, 2)
    alone = VideoList(videos=videos.videos[:1], classes=test.classes, root=tmp_path, split="test", layout="")
    nothing = foreground_share(Change(), alone, None, CLIPS, VIDEOS)
    assert (nothing.figures, nothing.chance, nothing.settings["num_still_clips"]) == ({}, {}, 2)


def still_mask(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return load_mask(path) if path.stem != "still" else np.ones((12, 40, 40), dtype=np.bool_)


class Brightest(nn.Module):
    """One feature a quarter of the frame: how much of it is brighter than grey."""

    def forward(self, x: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool3d((x[:, :1] > 0.4).float(), (1, 2, 2))
        return 0.1 + quarters.flatten(1)[..., None, None, None]


def test_occlusion_finds_what_the_features_depend_on() -> None:
    clips = torch.zeros(2, 3, 4, 32, 48, dtype=torch.uint8)
    clips[0, :, :, 20:28, 4:12] = 255
    maps = occlusion_map(Brightest(), clips)
    assert maps.shape == (2, 8, 12)
    row, column = divmod(int(maps[0].argmax()), 12)
    assert 5 <= row <= 6
    assert 1 <= column <= 2
    # Squares of eight pixels, centred on the cells of four: none that is this far away covers the patch.
    assert maps[0, :4].abs().max() < 1e-6
    assert maps[0, :, 5:].abs().max() < 1e-6
    one_by_one = torch.cat([occlusion_map(Brightest(), clip[None]) for clip in clips])
    torch.testing.assert_close(maps, one_by_one)


def test_share_of_the_occlusion_map(benchmark: Path) -> None:
    videos = list_videos(benchmark, "test")
    found = occlusion_share(Change(), videos, load_mask, CLIPS, VIDEOS)
    assert found.figures.keys() == {"share", "motion_share"}
    assert found.settings["num_videos"] == 10
    assert found.figures["motion_share"] > found.chance["motion_share"]


def test_foreground_share_leaves_out_undecodable_videos(benchmark: Path, tmp_path: Path) -> None:
    broken = Video(path=tmp_path / "broken.avi", label=0)
    broken.path.write_bytes(b"not a video")
    test = list_videos(benchmark, "test")
    videos = VideoList(videos=[broken, *test.videos[:3]], classes=test.classes, root=tmp_path, split="test", layout="")
    assert foreground_share(Flat(), videos, load_mask, CLIPS, Resources(batch_size=1)).settings["num_videos"] == 3
    only = VideoList(videos=[broken], classes=test.classes, root=tmp_path, split="test", layout="")
    with pytest.raises(DataError, match="none of 1 videos"):
        foreground_share(Flat(), only, load_mask, CLIPS, VIDEOS)


def test_side_by_side_has_a_tile_for_each_encoder_and_video(benchmark: Path, tmp_path: Path) -> None:
    videos = list_videos(benchmark, "test").videos
    encoders = {"random": rgb_only(build_backbone("tiny").eval()), "change": rgb_only(Change())}
    sizes = []
    for shown, rows in ((encoders, videos[:3]), ({"random": encoders["random"]}, videos[:3]), (encoders, videos[:1])):
        out = tmp_path / "pictures" / "cam.png"
        side_by_side(shown, rows, out, CLIPS, device=CPU, load_mask=load_mask)
        with Image.open(out) as picture:
            sizes.append(picture.size)
    assert sizes[0][1] > sizes[1][1]
    assert sizes[0][0] >= sizes[2][0]


def test_outline_of_the_mask_is_drawn_only_where_there_is_a_mask(benchmark: Path, tmp_path: Path) -> None:
    videos = list_videos(benchmark, "test").videos[:1]
    green = []
    for loader in (None, load_mask):
        side_by_side({"flat": rgb_only(Flat())}, videos, tmp_path / "cam.png", CLIPS, device=CPU, load_mask=loader)
        with Image.open(tmp_path / "cam.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        green.append((np.abs(pixels - [0x4A, 0xDE, 0x80]).sum(axis=2) < 12).sum())
    assert green[0] < 20 < green[1]


def test_side_by_side_leaves_out_a_broken_video(
    benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.avi").write_bytes(b"not a video")
    broken = Video(path=tmp_path / "broken.avi", label=None)
    whole = list_videos(benchmark, "test").videos[:8]
    pictures = []
    for videos in (whole, [*whole[:2], broken, *whole[2:]]):
        side_by_side({"flat": rgb_only(Flat())}, videos, tmp_path / "cam.png", CLIPS, device=CPU)
        pictures.append((tmp_path / "cam.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert "broken.avi: cannot be opened" in capsys.readouterr().err
    for none in ([], [broken]):
        with pytest.raises(DataError, match="no video that can be shown"):
            side_by_side({"flat": rgb_only(Flat())}, none, tmp_path / "cam.png", CLIPS, device=CPU)


def test_contact_sheet_shows_each_class(benchmark: Path, tmp_path: Path) -> None:
    heights = []
    for examples in (1, 2):
        assert contact_sheet(list_videos(benchmark, "train"), tmp_path / "sheet.png", examples_per_class=examples) == 0
        with Image.open(tmp_path / "sheet.png") as sheet:
            heights.append(sheet.height)
            assert sheet.width > 8 * 96
    assert heights[1] - heights[0] == 10 * 100


def test_contact_sheet_without_labels_and_with_a_broken_video(benchmark: Path, tmp_path: Path) -> None:
    broken = tmp_path / "a video with a very long name that does not fit into its column.avi"
    broken.write_bytes(b"not a video")
    good = [Video(path=video.path, label=None) for video in list_videos(benchmark, "train").videos[:3]]
    videos = [Video(path=broken, label=None), *good]
    listed = VideoList(videos=videos, classes=[], root=tmp_path, split="all", layout="videos without labels")
    assert contact_sheet(listed, tmp_path / "sheet.png", num_frames=4) == 1
    assert contact_sheet(listed, tmp_path / "sheet.png", max_rows=1) == 1
    assert contact_sheet(replace(listed, classes=["jump"]), tmp_path / "sheet.png") == 1, "none of them is labelled"
    empty = VideoList(videos=[], classes=[], root=tmp_path, split="all", layout="")
    with pytest.raises(DataError, match="no video to show"):
        contact_sheet(empty, tmp_path / "sheet.png")


def test_contact_sheet_names_what_it_leaves_out(
    benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []

    def noted(text: str, *words: int, **flags: int) -> Picture:
        texts.append(text)
        return label(text, *words, **flags)

    monkeypatch.setattr(contact_sheet_module, "label", noted)
    few = [Video(path=video.path, label=None) for video in list_videos(benchmark, "train").videos[:3]]
    listed = VideoList(videos=few, classes=[], root=tmp_path, split="all", layout="videos without labels")
    for videos in (listed, replace(listed, videos=few[:1])):
        contact_sheet(videos, tmp_path / "sheet.png", num_frames=1, max_rows=2)
    titles = [text.partition(" — ")[2] for text in texts if " — " in text]
    assert titles == ["all splits, 3 videos; the first 2 of 3 rows", "all splits, 1 video"]


def test_contact_sheet_counts_what_could_not_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "videos" / "a.mp4", np.zeros((4, 32, 32, 3), dtype=np.uint8))
    (tmp_path / "videos" / "b.mp4").write_bytes(b"not a video")
    assert main(["contact-sheet", str(tmp_path / "videos"), "--out", str(tmp_path / "sheet.png")]) == 0
    assert "(1 video could not be decoded, shown in grey)" in capsys.readouterr().out
