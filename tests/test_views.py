from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from fima.config import DataConfig
from fima.data.clips import FULL
from fima.data.views import ClipViews, Crop, crop_and_resize, random_crop, sample_views
from fima.data.workers.batches import joined

DATA = DataConfig(frames=4, crop_size=16, min_area=0.2)


def random_frames(
    num_frames: int, height: int = 40, width: int = 56
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def crops(width: int, height: int, count: int, min_area: float = 0.2, flip: float = 0.5) -> list[Crop]:
    rng = np.random.default_rng(0)
    data = DataConfig(min_area=min_area, flip=flip)
    return [random_crop(width, height, data, rng) for _ in range(count)]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 2), (2, 1), (1, 5), (5, 1)])
def test_a_crop_has_a_pixel_however_small_the_frame(width: int, height: int) -> None:
    for crop in crops(width, height, count=300, min_area=0.01):
        assert 1 <= crop.width <= width - crop.left
        assert 1 <= crop.height <= height - crop.top


def test_crops_fit_and_keep_to_area_and_aspect() -> None:
    for crop in crops(340, 256, 500):
        assert 0 <= crop.left <= 340 - crop.width
        assert 0 <= crop.top <= 256 - crop.height
        assert 0.19 < crop.width * crop.height / (340 * 256) <= 1
        assert 0.74 < crop.width / crop.height < 1.35


def test_crops_have_every_size_that_fits_and_lie_everywhere() -> None:
    """Rounded sides whose product is 1 to 20 pixels and whose ratio is 3/4 to 4/3, in a frame of 5 x 4 pixels."""
    found = crops(5, 4, 4_000, min_area=0.05)
    sizes = "1x1 1x2 2x1 2x2 2x3 3x2 3x3 3x4 4x3 4x4 5x3 5x4"
    assert {f"{crop.width}x{crop.height}" for crop in found} == set(sizes.split())
    for size, axis, whole in (("width", "left", 5), ("height", "top", 4)):
        for length in range(1, whole + 1):
            starts = [getattr(crop, axis) for crop in found if getattr(crop, size) == length]
            shares = [starts.count(start) / len(starts) for start in range(whole - length + 1)]
            assert shares == pytest.approx([1 / len(shares)] * len(shares), rel=0.25)


@pytest.mark.parametrize(("flip", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_flips_come_as_often_as_asked_and_move_no_crop(flip: float, share: float) -> None:
    def draw(probability: float) -> list[Crop]:
        rng = np.random.default_rng(1)
        data = DataConfig(min_area=0.2, flip=probability)
        return [random_crop(60, 40, data, rng) for _ in range(400)]

    found = draw(flip)
    assert abs(np.mean([crop.flipped for crop in found]) - share) < 0.08
    assert [replace(crop, flipped=False) for crop in found] == [replace(crop, flipped=False) for crop in draw(0.3)]


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(300, 10, (13, 10)), (10, 300, (10, 13)), (50, 1, (1, 1)), (1, 50, (1, 1))]
)
def test_frames_too_narrow_for_the_area_fall_back_to_the_centre(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    for crop in crops(width, height, 5, min_area=0.9, flip=1):
        assert (crop.width, crop.height) == expected
        assert (type(crop.left), type(crop.top), crop.flipped) == (int, int, True)
        assert abs(2 * crop.left + crop.width - width) <= 1
        assert abs(2 * crop.top + crop.height - height) <= 1


def test_box_of_a_crop() -> None:
    crop = Crop(left=10, top=5, width=21, height=11, flipped=False)
    torch.testing.assert_close(crop.box(101, 51), torch.tensor([0.1, 0.1, 0.3, 0.3]))
    flipped = Crop(left=10, top=5, width=21, height=11, flipped=True)
    torch.testing.assert_close(flipped.box(101, 51), torch.tensor([0.3, 0.1, 0.1, 0.3]))
    assert Crop(left=0, top=0, width=2, height=2, flipped=False).box(2, 2).tolist() == [0, 0, 1, 1]
    assert torch.isfinite(Crop(left=0, top=0, width=1, height=1, flipped=False).box(1, 1)).all()


@pytest.mark.parametrize("flipped", [False, True])
def test_resize_is_bilinear_to_one_grey_level(flipped: bool) -> None:
    frames = random_frames(3)
    view = crop_and_resize(frames, Crop(left=3, top=2, width=40, height=30, flipped=flipped), 16)
    pixels = torch.from_numpy(frames[:, 2:32, 3:43]).permute(0, 3, 1, 2).float()
    exact = functional.interpolate(pixels, size=(16, 16), mode="bilinear").transpose(0, 1)
    exact = exact.flip(3) if flipped else exact
    assert view.shape == (3, 3, 16, 16)
    assert view.dtype == torch.uint8
    assert view.is_contiguous()
    assert (view - exact).abs().max() <= 1.01


def test_a_crop_of_the_right_size_is_only_cut_out() -> None:
    frames = random_frames(2)
    view = crop_and_resize(frames, Crop(left=7, top=9, width=16, height=16, flipped=False), 16)
    np.testing.assert_array_equal(view.permute(1, 2, 3, 0).numpy(), frames[:, 9:25, 7:23])


def test_each_view_takes_its_frames_with_one_crop_for_all() -> None:
    window = np.zeros((8, 40, 56, 3), dtype=np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None] * 20
    views = sample_views(window, DATA, np.random.default_rng(0))
    for view, wanted in (
        (views.full, [0, 40, 80, 120]),
        (views.early, [0, 20, 40, 60]),
        (views.late, [80, 100, 120, 140]),
    ):
        assert view.shape == (3, 4, 16, 16)
        assert view[0, :, 5, 5].tolist() == wanted
    still = np.repeat(random_frames(1), 8, axis=0)
    views = sample_views(still, DATA, np.random.default_rng(1))
    for view in (views.full, views.early, views.late):
        assert (view == view[:, :1]).all()
    assert not torch.equal(views.early, views.late)


def test_the_box_is_where_full_was_cut_out() -> None:
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    window = np.repeat(columns[None], 8, axis=0)
    flips = set()
    for seed in range(12):
        views = sample_views(window, DATA, np.random.default_rng(seed))
        x0, _, x1, _ = (views.box * 199).tolist()
        # Half a view pixel inside the box, since the view's pixel centres are not the crop's corner pixels.
        inset = (x1 - x0) / 32
        row = views.full[0, 0, 8].float()
        assert abs(float(row[0]) - (x0 + inset)) < 1.6
        assert abs(float(row[-1]) - (x1 - inset)) < 1.6
        flips.add(x0 > x1)
    assert flips == {False, True}


def test_views_follow_from_the_generator() -> None:
    window = random_frames(8)
    first, again, other = (sample_views(window, DATA, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.full, again.full)
    assert torch.equal(first.box, again.box)
    assert not torch.equal(first.full, other.full)


def test_views_move_to_a_device() -> None:
    moved = sample_views(random_frames(8), DATA, np.random.default_rng(0)).to("meta")
    assert isinstance(moved, ClipViews)
    assert {value.device.type for value in vars(moved).values()} == {"meta"}


def test_views_of_several_clips_are_stacked_and_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [sample_views(random_frames(8), DATA, np.random.default_rng(seed)) for seed in range(3)]
    batch = joined([clip[None] for clip in clips])
    assert batch.full.shape == (3, 3, 4, 16, 16)
    for name in ("full", "early", "late", "box"):
        assert torch.equal(getattr(batch[1:3], name), torch.stack([getattr(clip, name) for clip in clips[1:]]))
    assert torch.equal(joined([clips[0][None]]).full[0], clips[0].full)
    # Memory can only be locked where there is a GPU.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    assert torch.equal(batch.pin_memory().late, batch.late + 1)


def test_views_that_are_not_wanted_are_left_out_and_change_nothing_else() -> None:
    window = random_frames(8)
    first, second = np.random.default_rng(0), np.random.default_rng(0)
    whole = sample_views(window, DATA, first)
    full_only = sample_views(window[FULL], DATA, second, frame_views=False)
    assert torch.equal(whole.full, full_only.full)
    assert torch.equal(whole.box, full_only.box)
    assert full_only.early.shape == full_only.late.shape == (3, 0, 16, 16)
    assert full_only.early.dtype == torch.uint8
    assert first.random() == second.random()
