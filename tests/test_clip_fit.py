"""How clips fit videos: what the doctor says, and what pre-training refuses before any work."""

import json
from pathlib import Path

import pytest

from fima.cli import main
from fima.config import DataConfig
from fima.data.datasets import Video, VideoList
from fima.errors import ConfigError
from fima.library.clip_fit import fit_of, with_timing_checked
from tests.small_runs import make_videos
from tests.video_files import moving_square, write_video

LENGTHS = [(20, 25.0)] * 3 + [(100, 25.0)] * 6 + [(1000, 0.0)]


@pytest.mark.parametrize(
    ("data", "looped", "repeating", "unknown", "advice"),
    [
        (DataConfig(), 3, 0, 0, "--data.stride 1 fits"),
        (DataConfig(frames=8), 0, 0, 0, ""),
        (DataConfig(frames=32), 3, 0, 0, "--data.span 0.7 1.0 fits"),
        (DataConfig(fps=12.5), 3, 0, 1, "--data.fps 20 fits"),
        (DataConfig(fps=12.5, frame_rate=20.0), 3, 0, 0, "--data.fps 20 fits"),
        (DataConfig(fps=50.0), 0, 9, 1, ""),
        (DataConfig(span=(0.5, 1.0)), 0, 0, 0, ""),
    ],
)
def test_clips_against_lengths_and_rates(
    data: DataConfig, looped: int, repeating: int, unknown: int, advice: str
) -> None:
    """3 videos of 0.8 s, 6 of 4 s at 25 frames a second, and one of 1,000 frames without a rate."""
    fit = fit_of(LENGTHS, data)
    assert (fit.num_videos, fit.num_looped, fit.num_repeating, fit.num_without_rate) == (10, looped, repeating, unknown)
    assert advice in "".join(fit.advice)
    assert bool(fit.advice) == bool(advice)
    shorter = f"{looped} of 10 videos are shorter" if looped else "none of 10 videos is shorter"
    assert f": {shorter}" in fit.line


def test_one_video_is_one_video() -> None:
    assert "1 of 1 video is shorter and is looped" in fit_of([(3, 25.0)], DataConfig()).line
    assert "1 has no known frame rate" in fit_of([(300, 0.0)], DataConfig(fps=5)).line


def test_uneven_rates_are_named_with_a_rate_for_all() -> None:
    (advice,) = fit_of([(300, 10.0)] * 5 + [(300, 60.0)] * 5, DataConfig()).advice
    assert "10 to 60 a second" in advice
    assert "--data.fps 5 " in advice


def test_clips_over_most_of_long_videos_are_called_coarse(tmp_path: Path) -> None:
    """Of two minutes, 16 frames over 70 to 100 % are more than six seconds apart."""
    whole = DataConfig(span=(0.7, 1.0))
    (advice,) = fit_of([(3000, 25.0)] * 5, whole).advice
    assert (
        "(120 s) the frames of a clip are 6.4 s apart; --data.span None --data.fps 12.5 makes clips of 1.3 s" in advice
    )
    (advice,) = fit_of([(1200, 10.0)] * 5, whole).advice
    assert "--data.fps 10 makes clips of 1.6 s" in advice  # a video has no more
    assert not fit_of([(250, 25.0)] * 5, whole).advice
    assert not fit_of([(3000, 0.0)] * 5, whole).advice
    path = write_video(tmp_path / "long.mp4", moving_square(60), codec="libx264", fps=5)
    listed = VideoList(videos=[Video(path, None)], classes=[], root=tmp_path, split="train", layout="x")
    (note,) = with_timing_checked(listed, whole).warnings()
    assert note.startswith("--data.span 0.7 1: in a video of median length (12 s)")


def test_fine_tuning_names_coarse_clips_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write_video(tmp_path / "videos" / name / "long.mp4", moving_square(60), codec="libx264", fps=5)
    argv = ["finetune", "scratch", str(tmp_path / "videos"), "--out", str(tmp_path / "run"), "--run.device", "cpu"]
    argv += ["--classifier.backbone", "tiny", "--optim.epochs", "1", "--optim.batch-size", "2", "--data.workers", "0"]
    argv += ["--data.frames", "4", "--data.crop-size", "32", "--data.span", "0.7", "1.0", "--test.clips", "1"]
    assert main(argv) == 0
    said = "fima: warning: --data.span 0.7 1: in a video of median length (12 s) the frames of a clip are 2.5 s apart"
    assert said in capsys.readouterr().err


def test_the_doctor_compares_the_videos_with_the_clips_of_a_recipe_and_of_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten videos of 12 frames, one of 60."""
    videos = make_videos(tmp_path / "videos")
    write_video(videos / "a" / "long.mp4", moving_square(60), codec="libx264")
    words = ["doctor", str(videos), "--index", str(tmp_path / "index.sqlite"), "--workers", "1"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {frames: 8, span: [0.5, 1.0]}")
    assert main([*words, "--json", str(tmp_path / "found.json")]) == 0
    assert "16 frames, stride 2: 10 of 11 videos are shorter and are looped" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["clips"]["num_looped"] == 10
    assert main([*words, str(recipe)]) == 0
    assert "8 frames, over 50% to 100% of a video: none of 11 videos is shorter" in capsys.readouterr().out
    assert main([*words, str(recipe), "--data.stride", "4"]) == 0
    assert "8 frames, stride 4: 10 of 11" in capsys.readouterr().out
    assert main([*words, "--data.fps", "5", "--data.stride", "3"]) == 2
    assert "give one of the three" in capsys.readouterr().err


def test_a_flag_beside_the_timing_of_a_preset_names_what_takes_that_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "--smoke", "--out", str(tmp_path / "run"), "--preset", "small", "--data.fps", "10"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "--data.fps and --data.span: both time the clips, give one of the three" in error
    assert "--data.fps 0 or --data.span None takes back what a recipe sets" in error


def test_a_timing_that_fits_no_video_is_refused_before_any_work(tmp_path: Path) -> None:
    files = sorted(make_videos(tmp_path / "videos", num_per_class=2).rglob("*.avi"))
    listed = VideoList(
        videos=[Video(path, None) for path in files], classes=[], root=tmp_path, split="train", layout="x"
    )
    with pytest.raises(ConfigError, match=r"--data.fps 30: more than any of the 4 videos .* \(25 at most\)"):
        with_timing_checked(listed, DataConfig(fps=30.0))
    with pytest.raises(
        ConfigError, match=r"--data.stride 4: a clip of 4 frames is longer .* \(12 frames\); --data.str"
    ):
        with_timing_checked(listed, DataConfig(frames=4, stride=4.0))
    assert with_timing_checked(listed, DataConfig(frames=4, stride=3.0)).notes == []
    assert with_timing_checked(listed, DataConfig()).notes == []
    write_video(files[0].with_suffix(".mp4"), moving_square(30), codec="libx264", fps=60)
    mixed = VideoList(
        videos=[Video(path, None) for path in [files[0].with_suffix(".mp4"), *files[1:]]],
        classes=[], root=tmp_path, split="train", layout="x",
    )  # fmt: skip
    (note,) = with_timing_checked(mixed, DataConfig(frames=4, fps=30.0)).warnings()
    assert "3 have fewer frames a second" in note


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_coarse_clips_of_long_videos_are_named_unless_asked_for(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`small` looks at 85 % of a video; of twelve seconds, its frames are 0.6 s apart."""
    for name in ("train/a/0", "train/b/0", "test/a/0", "test/b/0"):
        write_video(tmp_path / "v" / f"{name}.mp4", moving_square(12), fps=1)
    words = [command, "small", str(tmp_path / "v"), "--workers", "0", "--device", "cpu"]
    if command == "evaluate":
        words += ["--protocols", "knn", "--num-clips", "1"]
    sentence = "(12 s) the frames of a clip are 0.6 s apart; --fps 1 makes"
    for number, given in enumerate(([], ["--fps", "1"])):
        out = tmp_path / f"{number}.{'json' if command == 'evaluate' else 'npz'}"
        assert main([*words, *given, "--out", str(out)]) == 0
        assert (sentence in capsys.readouterr().err) == (not given)
