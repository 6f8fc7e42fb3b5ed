"""Activation maps over time: of a clip, of a streamed video, and the files of `fima cam`."""

import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.data.clips import ClipTiming, FrameCount
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.evaluate.activation import MapTimeline, ViewEncoders, activation_map, map_timeline, with_batch_statistics
from fima.train.pretrain import pretrain
from fima.visual.maps import VIDEO_LEGEND, NamedEncoder, look_at, panels, write_map_picture, write_map_video
from fima.visual.overlay import in_a_column, label, label_width, overlay, resized
from fima.visual.video_out import shown_fps, video_writer
from tests.evaluation_data import write_state_dict
from tests.small_runs import with_settings
from tests.video_files import decode_all, moving_square, write_video

CPU = torch.device("cpu")
Capture = pytest.CaptureFixture[str]
Frames = NDArray[np.uint8]


class Bright(nn.Module):
    """Responds to brightness: a slice of the features for every `every` frames, a cell for every 4 x 4 pixels."""

    def __init__(self, every: int = 2) -> None:
        super().__init__()
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool3d(x, (self.every, 4, 4))


def flash(num_frames: int, when: range, height: int = 32, width: int = 48) -> list[Frames]:
    """Black frames whose right half is white at some times."""
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    frames[when.start : when.stop, :, width // 2 :] = 255
    return list(frames)


def timeline_of(frames: list[Frames], *, clip_frames: int = 4, encoder: nn.Module | None = None) -> MapTimeline:
    encoders = ViewEncoders(rgb=encoder or Bright(), difference=None)
    window = ClipTiming().window(FrameCount(len(frames)), clip_frames)
    return map_timeline(encoders, frames, window=window, crop_size=28, device=CPU)


def test_activation_map_is_resolved_in_time_and_space() -> None:
    clip = torch.zeros(3, 8, 16, 16, dtype=torch.uint8)
    clip[:, 4:, 8:] = 255
    found = activation_map(Bright(every=4), clip, kind="rgb")
    assert found.shape == (8, 16, 16)
    assert found[-1, -1, -1] > found[0, -1, -1]
    assert found[-1, -1, -1] > found[-1, 0, -1]
    torch.testing.assert_close(found[0, 0, 0], found[-1, 0, 0])
    with pytest.raises(ValueError, match="uint8"):
        activation_map(Bright(), clip.float())


def test_activation_map_adds_the_response_to_the_difference() -> None:
    still = torch.full((3, 8, 16, 16), 90, dtype=torch.uint8)
    rgb, both = (activation_map(Bright(), still, kind=kind) for kind in ("rgb", "both"))
    grey = activation_map(Bright(), torch.full_like(still, 127), kind="rgb")
    torch.testing.assert_close(both, rgb + grey, atol=0.05, rtol=0)


def test_batch_statistics_replace_running_ones_and_leave_the_encoder_alone() -> None:
    encoder = nn.Sequential(nn.BatchNorm3d(3)).eval()
    x = torch.randn(2, 3, 4, 5, 5) * 7 + 3
    found = with_batch_statistics(encoder)(x)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder(x), x, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("num_frames", [1, 5, 8, 9, 30, 41])
@pytest.mark.parametrize("every", [1, 2, 4])
def test_timeline_covers_videos_of_any_length(num_frames: int, every: int) -> None:
    found = timeline_of(flash(num_frames, range(0)), encoder=Bright(every))
    assert len(found.maps) == len(found.centres) >= 1
    assert (np.diff(found.centres) > 0).all()
    assert -0.5 <= found.centres[0] <= found.centres[-1] <= max(num_frames, 8)
    np.testing.assert_allclose(found.maps, found.maps[0, 0, 0], rtol=1e-5)


def test_timeline_says_when_and_where() -> None:
    found = timeline_of(flash(48, range(16, 24)))
    right, left = (
        np.array([found.at(frame)[:, columns].mean() for frame in range(48)]) for columns in (slice(6, None), slice(5))
    )
    assert 16 <= right.argmax() <= 24
    assert right[20] > right[4] + 1
    assert right[20] > right[40] + 1
    np.testing.assert_allclose(left, left[0], atol=0.2)
    assert found.limits == (found.maps.min(), found.maps.max())
    np.testing.assert_allclose(found.mean, found.maps.mean(axis=0))


@pytest.mark.parametrize(
    ("timing", "length"), [(ClipTiming(stride=4), 16), (ClipTiming(fps=5), 20), (ClipTiming(span=1), 48)]
)
def test_timeline_looks_through_windows_timed_as_in_training(timing: ClipTiming, length: int) -> None:
    """A flash in one clip of a window is where its slices lie in the video: 25 frames a second, 4 frames a clip."""
    window = timing.window(FrameCount(48, 25.0), 4)
    encoders = ViewEncoders(rgb=Bright(), difference=None)
    found = map_timeline(encoders, flash(48, range(36, 48)), window=window, crop_size=28, device=CPU)
    slices = [start + length * (number + 0.5) / 2 - 0.5 for start in (0, 48 - length) for number in range(2)]
    assert found.centres[0] == pytest.approx(slices[0])
    assert found.centres[-1] == pytest.approx(slices[-1])
    assert found.at(47)[:, 6:].mean() > found.at(0)[:, 6:].mean() + 1


def test_timeline_keeps_the_aspect_of_the_frame() -> None:
    found = timeline_of(flash(10, range(0), height=32, width=64))
    assert found.maps.shape[1:] == (8, 16)


def test_a_long_video_is_not_held_in_memory() -> None:
    """Of the frames that the source gives, only the present one is alive outside of the small copies."""
    alive: list[int] = []
    most = 0

    class Counted(np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):
        def __del__(self) -> None:
            alive.pop()

    def frames() -> Iterator[Frames]:
        nonlocal most
        for _ in range(300):
            alive.append(1)
            most = max(most, len(alive))
            yield np.zeros((32, 32, 3), dtype=np.uint8).view(Counted)

    window = ClipTiming().window(FrameCount(300), 4)
    encoders = ViewEncoders(rgb=Bright(), difference=None)
    found = map_timeline(encoders, frames(), window=window, crop_size=16, device=CPU)
    assert most <= 3
    assert len(found.maps) < 160


def named(name: str, encoder: nn.Module) -> NamedEncoder:
    clips = ClipSettings(frames=4, crop_size=28)
    return NamedEncoder(name=name, encoders=ViewEncoders(rgb=encoder, difference=None), clips=clips)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_map_video_shows_the_video_and_each_map(tmp_path: Path, suffix: str) -> None:
    frames = flash(24, range(12, 24))
    maps = look_at(
        [named("one", Bright()), named("two", Bright())], lambda: frames, FrameCount(len(frames)), device=CPU
    )
    out = tmp_path / f"maps{suffix}"
    write_map_video(maps, lambda: frames, out, fps=12, height=64)
    found = decode_all(out)
    assert len(found) == 24
    assert found.shape[2] == 3 * 96 + 2 * 4
    panels = [found[:, 30:, start : start + 96].astype(float) for start in (0, 100, 200)]
    for panel in panels:
        bright = panel[20, :, 60:].mean()
        assert bright > panel[20, :, :30].mean() + 60
        assert bright > panel[2, :, 60:].mean() + 60
    np.testing.assert_allclose(panels[1], panels[2], atol=30)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_map_picture_has_moments_and_the_average(tmp_path: Path) -> None:
    frames = flash(20, range(10, 20))
    maps = look_at([named("one", Bright())], lambda: frames, FrameCount(len(frames)), device=CPU)
    write_map_picture(maps, lambda: frames, tmp_path / "maps.png", num_frames=len(frames), height=64)
    with Image.open(tmp_path / "maps.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(float)
    assert pixels.shape[1] == 6 * 96 + 5 * 4
    average = pixels[30:80, 5 * 100 + 55 : 5 * 100 + 90]
    assert 110 < average.mean() < 145


def test_names_fit_beside_narrow_frames(tmp_path: Path) -> None:
    frames = flash(8, range(4, 8), height=48, width=16)
    names = [f"/experiments/{name}/checkpoints/last.pt" for name in ("one", "two")]
    maps = look_at([named(name, Bright()) for name in names], lambda: frames, FrameCount(len(frames)), device=CPU)
    shown = panels(maps, resized(frames[0], 64), 0)
    assert shown.shape[1] == sum(map(label_width, ["video", *names])) + 2 * 4
    write_map_picture(maps, lambda: frames, tmp_path / "maps.png", num_frames=len(frames), height=64)
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width == label_width(VIDEO_LEGEND)


def test_a_video_that_fails_leaves_no_file(tmp_path: Path) -> None:
    frames = iter([np.zeros((16, 16, 3), dtype=np.uint8), None])
    with pytest.raises(AttributeError), video_writer(tmp_path / "a.mp4", 25) as write:
        list(map(write, frames))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_odd_sizes_and_odd_rates_can_be_written(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", 30000 / 1001) as write:
        for _ in range(6):
            write(np.full((33, 35, 3), 200, dtype=np.uint8))
    assert decode_all(tmp_path / "a.mp4").shape == (6, 34, 36, 3)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(29.97, abs=0.01)


def test_a_frame_an_hour_and_a_picture_wider_than_h264_takes_can_be_written(tmp_path: Path) -> None:
    with video_writer(tmp_path / "slow.mp4", 1 / 3600) as write:
        for _ in range(3):
            write(np.full((32, 32, 3), 200, dtype=np.uint8))
    with av.open(str(tmp_path / "slow.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(1, 3600)
    for shape, shown in (((32, 20_000, 3), (26, 16_250)), ((20_000, 8, 3), (16_384, 6))):
        with video_writer(tmp_path / "large.mp4", 25) as write:
            write(np.full(shape, 200, dtype=np.uint8))
        assert decode_all(tmp_path / "large.mp4").shape == (1, *shown, 3)


def test_gif_takes_few_frames_a_second() -> None:
    assert shown_fps(60, "gif") == (15, 4)
    assert shown_fps(12, "gif") == (12, 1)
    assert shown_fps(0, "mp4") == (25, 1)


def test_overlay_goes_from_dark_to_bright_and_ignores_a_flat_map() -> None:
    frame = np.full((20, 20, 3), 128, dtype=np.uint8)
    ramp = overlay(frame, np.linspace(0, 1, 20, dtype=np.float32)[None].repeat(20, axis=0), (0, 1))
    luminance = ramp.astype(float) @ [0.2, 0.7, 0.1]
    assert (np.diff(luminance[10]) >= -1).all()
    flat = overlay(frame, np.ones((2, 2), dtype=np.float32), (1, 1))
    assert (flat == flat[0, 0]).all()


def test_labels_are_cut_to_the_width() -> None:
    assert label("x" * 500, 60).shape[1] == 60
    assert label("", 60).min() > 200
    assert resized(np.zeros((30, 61, 3), dtype=np.uint8), 15).shape == (15, 30, 3)
    assert in_a_column([label("a", 20), label("b", 40)]).shape[1] == 40


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("cam") / "run"
    pretrain(with_settings("run", health_epochs=0, checkpoint_epochs=1), data=videos, out=out)
    return RunFolder(out)


class TestCommand:
    def cam(self, *words: object) -> int:
        return main(["cam", *map(str, words), "--device", "cpu"])

    def test_writes_a_video_and_a_picture_for_each_file(
        self, run: RunFolder, videos: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file = sorted(videos.rglob("*.avi"))[0]
        out = tmp_path / "out"
        assert self.cam(run.last, file, videos, "--num-videos", 1, "--compare", run.numbered(1), "--out", out) == 0
        names = sorted(path.name for path in out.iterdir())
        name = f"{file.parent.name}_00"
        assert names == [".fima-output", f"{name}-2.mp4", f"{name}-2.png", f"{name}.mp4", f"{name}.png"]
        assert len(decode_all(out / f"{name}.mp4")) == 12
        assert capsys.readouterr().out.count("wrote") == 2

    def test_files_of_one_name_in_the_working_folder(
        self, run: RunFolder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "clips" / "more").mkdir(parents=True)
        for folder in (tmp_path / "clips", tmp_path / "clips" / "more"):
            shutil.copy(sorted(videos.rglob("*.avi"))[0], folder / "a.avi")
        monkeypatch.chdir(tmp_path / "clips")
        assert self.cam(run.last, ".", "--out", tmp_path / "out") == 0
        assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["clips_a.png", "more_a.png"]

    def test_png_alone_and_gif(self, run: RunFolder, videos: Path, tmp_path: Path) -> None:
        file = sorted(videos.rglob("*.avi"))[0]
        assert self.cam(run.last, file, "--format", "png", "--map", "rgb", "--out", tmp_path / "a") == 0
        assert self.cam(run.last, file, "--format", "gif", "--height", 48, "--out", tmp_path / "b") == 0
        assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".fima-output", "00.png"]
        assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [".fima-output", "00.gif", "00.png"]

    def test_one_picture_of_all(self, run: RunFolder, videos: Path, tmp_path: Path) -> None:
        words = ["--num-videos", "2", "--split", "test", "--stride", "1", "--out"]
        assert self.cam(run.last, videos, *words, tmp_path / "all.png") == 0
        with Image.open(tmp_path / "all.png") as picture:
            assert picture.height > 400

    def test_clips_that_the_file_does_not_say_are_said_aloud(
        self, videos: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        bare, file = write_state_dict(tmp_path / "bare.pt"), sorted(videos.rglob("*.avi"))[0]
        words = ["--map", "rgb", "--frames", "4", "--crop-size", "32", "--out", tmp_path / "map.png"]
        assert self.cam(bare, file, *words) == 0
        assert "does not say which clips it was trained on; it is shown 4 frames of 32 px" in capsys.readouterr().err

    def test_broken_videos_are_named_and_left_out(
        self, run: RunFolder, videos: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        broken = tmp_path / "broken.avi"
        broken.write_bytes(b"no video")
        good = sorted(videos.rglob("*.avi"))[0]
        assert self.cam(run.last, broken, good, "--format", "png", "--out", tmp_path / "out") == 0
        assert "broken.avi" in capsys.readouterr().err
        assert self.cam(run.last, broken, "--out", tmp_path / "none") == 2
        assert "none of 1 videos" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "no video given"),
            (("x.avi", "--height", "8"), "--height 8"),
            (("x.avi", "--fps", "0"), "--fps 0: must be above 0"),
            (("x.avi", "--num-videos", "-1"), "--num-videos -1"),
        ],
    )
    def test_wrong_words_are_refused(
        self, run: RunFolder, words: tuple[str, ...], message: str, capsys: Capture
    ) -> None:
        assert self.cam(run.last, *words) == 2
        assert message in capsys.readouterr().err


def test_stream_gives_the_frames_of_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(30), codec="libx264", b_frames=2)
    with VideoReader(path) as reader:
        streamed = np.stack(list(reader.stream()))
        np.testing.assert_array_equal(streamed, reader.read(range(30)))
        np.testing.assert_array_equal(np.stack(list(reader.stream())), streamed)
