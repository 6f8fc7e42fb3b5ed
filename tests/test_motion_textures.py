"""The motion-texture benchmark: reproducible, balanced, readable, and what its classes promise."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fima.data.datasets import list_videos
from fima.data.decode.video import VideoReader
from fima.errors import ConfigError, DataError
from fima.synthetic import motion_textures
from fima.synthetic.motion_scene import (
    LUMA_WEIGHTS,
    MAX_RADIUS,
    MIN_RADIUS,
    Trajectory,
    draw_camera,
    draw_object,
    draw_texture,
    draw_trajectory,
    render,
)
from fima.synthetic.motion_textures import (
    CLASSES,
    FORMAT_VERSION,
    MotionTextureSettings,
    list_counterparts,
    load_mask,
    make_motion_textures,
)

SIZE_PX, NUM_FRAMES = 48, 12
SETTINGS = MotionTextureSettings(num_train=30, num_test=20, size_px=SIZE_PX, num_frames=NUM_FRAMES)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmark") / "static"
    make_motion_textures(out, SETTINGS, workers=0)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> NDArray[np.float64]:
    with VideoReader(path) as reader:
        return reader.read(range(reader.num_frames)).astype(np.float64)


def test_same_seed_same_bytes_in_any_number_of_processes(benchmark: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    make_motion_textures(again, SETTINGS, workers=2)
    assert digests(again) == digests(benchmark)


def test_several_processes_may_write_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, settings = tmp_path / "b", replace(SETTINGS, num_train=10, num_test=10)
    write_all = motion_textures._write_all

    def slower(folder: Path, *arguments: Any) -> None:  # noqa: ANN401
        monkeypatch.undo()
        assert make_motion_textures(out, settings, workers=0)
        write_all(folder, *arguments)

    monkeypatch.setattr(motion_textures, "_write_all", slower)
    assert not make_motion_textures(out, settings, workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_other_seed_other_videos(benchmark: Path, tmp_path: Path) -> None:
    make_motion_textures(tmp_path / "b", replace(SETTINGS, num_train=10, num_test=10, seed=1), workers=0)
    mine, other = digests(benchmark), digests(tmp_path / "b")
    shared = [name for name in mine.keys() & other.keys() if name.endswith(".avi")]
    assert shared
    assert all(mine[name] != other[name] for name in shared)


def test_no_video_occurs_twice(benchmark: Path) -> None:
    videos = [digest for name, digest in digests(benchmark).items() if name.endswith(".avi")]
    assert len(set(videos)) == len(videos) == 30 + 3 * 20


def test_layout_is_ucf101(benchmark: Path) -> None:
    train, test, others = list_videos(benchmark, "train"), list_videos(benchmark, "test"), list_counterparts(benchmark)
    assert [videos.warnings() for videos in (train, test, *others.values())] == [[]] * 4
    assert train.layout.startswith("UCF101")
    assert list(others) == ["swapped", "removed"]
    for videos, per_class in ((train, 3), (test, 2), *((other, 2) for other in others.values())):
        assert videos.classes == list(CLASSES)
        assert not videos.missing
        labels = [video.label for video in videos.videos]
        assert [labels.count(label) for label in range(len(CLASSES))] == [per_class] * len(CLASSES)
        assert all(video.path.parent.name == CLASSES[video.label or 0] for video in videos.videos)
    plain = {video.path for video in (*train.videos, *test.videos)}
    assert len(plain) == 50
    assert not plain & {video.path for other in others.values() for video in other.videos}
    manifest = json.loads((benchmark / "motion_textures.json").read_text())
    assert manifest["format_version"] == FORMAT_VERSION
    assert manifest["settings"]["num_frames"] == NUM_FRAMES


def test_decoded_frames_keep_texture_and_stand_still_outside_the_object(benchmark: Path) -> None:
    for video in list_videos(benchmark, "test").videos:
        frames, mask = read(video.path), load_mask(video.path)
        assert frames.shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3)
        assert mask.shape == frames.shape[:3]
        change = np.abs(frames[1:] - frames[:-1]).mean(axis=3)
        touched = mask[1:] | mask[:-1]
        assert change[touched].mean() > 4 * change[~touched].mean()
        assert frames[0].std() > 10


def test_texture_is_there_without_its_colours() -> None:
    contrasts = [float((draw_texture(np.random.default_rng(seed), 96) @ LUMA_WEIGHTS).std()) for seed in range(60)]
    assert min(contrasts) > 0.08


@pytest.mark.parametrize("kind", ["swapped", "removed"])
def test_counterpart_differs_in_the_background_alone(kind: str, benchmark: Path) -> None:
    others = list_counterparts(benchmark)[kind].videos
    for video, other in zip(list_videos(benchmark, "test").videos, others, strict=True):
        assert other.path.stem == f"{video.path.stem}_{kind}"
        mask = load_mask(video.path)
        assert np.array_equal(mask, load_mask(other.path))
        difference = np.abs(read(video.path) - read(other.path)).mean(axis=3)
        inside = mask & np.roll(mask, 2, 1) & np.roll(mask, -2, 1) & np.roll(mask, 2, 2) & np.roll(mask, -2, 2)
        assert difference[inside].mean() < 10 < difference[~mask].mean()


def test_removed_background_is_an_even_grey(benchmark: Path) -> None:
    for video in list_counterparts(benchmark)["removed"].videos:
        touched = load_mask(video.path)
        for shift in (-4, -2, 2, 4):
            touched = touched | np.roll(touched, shift, 1) | np.roll(touched, shift, 2)
        assert np.abs(read(video.path)[~touched] - 127.5).mean() < 2


def test_moving_camera_moves_the_background(tmp_path: Path) -> None:
    out = tmp_path / "moving"
    make_motion_textures(out, replace(SETTINGS, num_train=10, num_test=10, camera="moving"), workers=0)
    for video in list_videos(out, "test").videos:
        frames, mask = read(video.path), load_mask(video.path)
        change = np.abs(frames[-1] - frames[0]).mean(axis=2)
        assert change[~(mask[0] | mask[-1])].mean() > 4


@pytest.mark.parametrize("motion", CLASSES)
def test_object_stays_in_the_frame_and_its_mask_shows_the_motion(motion: str) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        radius = rng.uniform(MIN_RADIUS, MAX_RADIUS)
        path = draw_trajectory(motion, rng, num_frames=NUM_FRAMES, radius=radius)
        for centre in (path.x, path.y):
            assert (centre - radius * path.scale >= -1e-5).all()
            assert (centre + radius * path.scale <= 1 + 1e-5).all()
        assert classify(path) == motion


def classify(path: Trajectory) -> str:
    """The class by rules that look at the trajectory alone."""
    x, y = path.x - path.x.mean(), path.y - path.y.mean()
    if np.ptp(path.angle) > 0.5:
        return "Rotation"
    if abs(np.log(path.scale[-1] / path.scale[0])) > 0.1:
        return "Growing" if path.scale[-1] > path.scale[0] else "Shrinking"
    steps_x, steps_y = np.diff(x), np.diff(y)
    if np.ptp(x) < 1e-5:
        if (steps_y > 0).all() or (steps_y < 0).all():
            return "Down" if steps_y[0] > 0 else "Up"
        return "VerticalOscillation"
    if np.ptp(y) < 1e-5:
        return "HorizontalDrift" if (steps_x > 0).all() or (steps_x < 0).all() else "HorizontalOscillation"
    speed = np.hypot(steps_x, steps_y)
    return "Circling" if np.ptp(speed) < 1e-4 else "Jitter"


@pytest.mark.parametrize("motion", CLASSES)
def test_mirrored_trajectory_is_of_the_same_class_and_as_likely(motion: str) -> None:
    to_the_right, turning = 0, 0
    for seed in range(200):
        path = draw_trajectory(motion, np.random.default_rng(seed), num_frames=NUM_FRAMES, radius=0.15)
        mirrored = Trajectory(x=1 - path.x, y=path.y, angle=np.pi - path.angle, scale=path.scale)
        assert classify(mirrored) == classify(path) == motion
        to_the_right += int(path.x[1] > path.x[0])
        turning += int(path.angle[1] > path.angle[0])
    if np.ptp(path.x) > 1e-5:
        assert 70 < to_the_right < 130
    if motion == "Rotation":
        assert 70 < turning < 130


def test_mirrored_video_is_the_video_of_the_mirrored_scene() -> None:
    """Flipping the pixels equals mirroring background, outline, texture and trajectory."""
    rng = np.random.default_rng(0)
    background = draw_texture(rng, 2 * SIZE_PX)
    thing = draw_object(rng, [background])
    path = draw_trajectory("Rotation", rng, num_frames=4, radius=thing.radius)
    _, mask = render(thing, path, background, size_px=SIZE_PX)
    outline = np.roll(thing.outline[::-1], 1)
    mirrored_thing = type(thing)(outline=outline, texture=thing.texture, radius=thing.radius)
    mirrored_path = Trajectory(x=1 - path.x, y=path.y, angle=np.pi - path.angle, scale=path.scale)
    # An outline sampled at 720 angles may move a pixel on the edge.
    _, mirrored = render(mirrored_thing, mirrored_path, background, size_px=SIZE_PX)
    assert (mirrored[:, :, ::-1] != mask).mean() < 0.004


def test_size_and_appearance_do_not_depend_on_the_class(benchmark: Path) -> None:
    """Objects are drawn before the motion is: the mask's area at rest has the same bounds in every class."""
    for video in list_videos(benchmark, "train").videos:
        area = load_mask(video.path)[NUM_FRAMES // 2].mean()
        assert 0.6 * np.pi * MIN_RADIUS**2 < area < 1.3 * np.pi * MAX_RADIUS**2


def test_camera_stays_on_the_canvas() -> None:
    for seed in range(200):
        x, y = draw_camera(np.random.default_rng(seed), num_frames=24)
        assert min(x.min(), y.min()) >= 0
        assert max(x.max(), y.max()) <= 0.7


def test_existing_benchmark_is_reused_and_anything_else_refused(tmp_path: Path) -> None:
    settings = MotionTextureSettings(num_train=1, num_test=1, size_px=SIZE_PX, num_frames=4)
    out = tmp_path / "bench"
    assert make_motion_textures(out, settings, workers=0)
    before = digests(out)
    assert not make_motion_textures(out, settings, workers=0)
    assert digests(out) == before
    with pytest.raises(DataError, match="already holds something else"):
        make_motion_textures(out, replace(settings, seed=3), workers=0)
    next(out.glob("data/*/*_train_*.avi")).unlink()
    with pytest.raises(DataError, match="1 videos are missing"):
        make_motion_textures(out, settings, workers=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    with pytest.raises(DataError, match="already holds something else"):
        make_motion_textures(tmp_path / "other", settings, workers=0)


def test_an_empty_folder_is_filled_also_by_way_of_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MotionTextureSettings(num_train=1, num_test=1, size_px=32, num_frames=4)
    for name in ("present", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("linked")
    monkeypatch.chdir(tmp_path / "present")
    for out in (Path(), tmp_path / "link"):
        assert make_motion_textures(out, settings, workers=0)
        assert not make_motion_textures(out, settings, workers=0)
    assert {path.name for path in Path().iterdir()} == {path.name for path in (tmp_path / "linked").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"present", "linked", "link"}


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("fima.synthetic.motion_textures._write_video", fail)
    with pytest.raises(OSError, match="disk full"):
        make_motion_textures(tmp_path / "bench", MotionTextureSettings(num_train=1, num_test=1), workers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value"), [("num_train", 0), ("size_px", 31), ("size_px", 65), ("camera", "drone"), ("seed", -1)]
)
def test_wrong_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^--{setting.replace('_', '-')} "):
        MotionTextureSettings(**{setting: value})  # type: ignore[arg-type]


def test_folder_without_counterparts_or_masks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete motion-texture benchmark"):
        list_counterparts(tmp_path)
    with pytest.raises(DataError, match="no foreground mask"):
        load_mask(tmp_path / "data" / "Up" / "Up_test_00001.avi")
