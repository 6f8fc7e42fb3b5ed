"""What `fima doctor` and a stranger's first command say of where to begin."""

import json
from pathlib import Path

import pytest

from fima.cli import main
from fima.commands.parse import default_settings
from fima.config import FinetuneConfig, PretrainConfig
from fima.errors import ConfigError
from fima.library.clip_fit import first_classifier, first_training
from fima.recipe import read_recipe
from tests.small_runs import make_videos

SHORT, LONG = (75, 25.0), (1500, 25.0)


def never() -> bool:
    raise AssertionError("a GPU decides nothing here")


def test_few_videos_or_no_gpu_begin_with_the_small_encoder() -> None:
    assert first_training("my videos", [SHORT] * 999, never) == (
        "to begin: fima pretrain 'my videos' --out runs/mine --preset small  "
        "(fewer than 1,000 videos; clips fit any length)"
    )
    assert "--preset small  (no GPU; clips fit any length)" in first_training("v", [SHORT] * 1000, lambda: False)
    assert "--preset" not in first_training("v", [SHORT] * 1000, lambda: True)


def test_on_very_few_videos_the_encoder_is_used_as_it_is() -> None:
    for number in (1, 20, 99):
        assert first_training("v", [SHORT] * number, never).startswith("to begin: fima embed small v -o vectors.npz  (")
    assert "pretrain" in first_training("v", [SHORT] * 100, never)
    few_and_long = "to begin: fima embed small v -o vectors.npz --per second  (fewer than 100 windows of 10 seconds"
    assert first_training("v", [LONG] * 16, never).startswith(few_and_long)


def test_fewer_videos_get_more_epochs_than_the_recipe_has() -> None:
    assert "--preset small --optim.epochs 50  (fewer than" in first_training("v", [SHORT] * 299, never)
    assert "--preset small  (fewer than" in first_training("v", [SHORT] * 300, never)
    assert read_recipe(Path("recipes/small.yaml")).optim.epochs < 50


def test_a_few_long_recordings_are_many_windows() -> None:
    assert first_training("v", [LONG] * 20, never) == (
        "to begin: fima pretrain v --out runs/mine --preset small --data.span None --data.fps 12.5 "
        "--data.windows-per-video auto --optim.epochs 50  (fewer than 1,000 windows of 10 seconds; long videos)"
    )
    an_hour = (90_000, 25.0)
    assert "--data.windows-per-video auto  (no GPU; long videos)" in first_training("v", [an_hour] * 3, lambda: False)
    assert "mine --data.windows-per-video auto  (I3D" in first_training("v", [an_hour] * 3, lambda: True)


def test_few_short_videos_with_classes_get_a_classifier() -> None:
    assert first_classifier("my videos", [SHORT] * 999, 10) == (
        "with labels: fima finetune small 'my videos' --out runs/classifier --preset small_finetune  (10 classes)"
    )
    for lengths, num_classes in (([SHORT] * 1000, 10), ([LONG] * 99, 10), ([SHORT] * 99, 1), ([SHORT] * 99, 0)):
        assert first_classifier("v", lengths, num_classes) is None


def test_long_videos_get_clips_by_the_second() -> None:
    by_the_second = "--preset small --data.span None --data.fps 12.5 --data.windows-per-video auto  (no GPU"
    assert by_the_second in first_training("v", [SHORT, LONG, LONG] * 100, lambda: False)
    # Pre-training refuses a rate that no video has.
    assert "--data.span None --data.fps 10 --data" in first_training("v", [(600, 10.0)] * 100, never)
    assert "--data.fps" not in first_training("v", [SHORT, SHORT, LONG, (1500, 0.0)] * 100, never)


def test_the_doctor_says_it_unless_a_recipe_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = make_videos(tmp_path / "videos", num_per_class=1)
    words = ["doctor", str(videos), "--index", str(tmp_path / "index"), "--workers", "1"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"to begin: fima embed small {videos} -o vectors.npz" in said
    assert "with labels" not in said, "no class has the five videos of which one is held out for testing"
    assert " fits " not in said, "the clips of `small` fit, and its recipe refuses flags for others"
    assert main([*words, "--data.stride", "4"]) == 0
    assert " fits 95% of them" in capsys.readouterr().out
    assert main([*words, "recipes/small.yaml"]) == 0
    assert "to begin" not in capsys.readouterr().out


def test_a_classifier_is_named_where_there_are_videos_to_test_it_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, report = make_videos(tmp_path / "videos", num_per_class=5), tmp_path / "report.json"
    words = ["doctor", str(videos), "--index", str(tmp_path / "index"), "--workers", "1", "--json", str(report)]
    assert main(words) == 0
    assert f"with labels: fima finetune small {videos} --out runs/classifier" in capsys.readouterr().out
    assert json.loads(report.read_text())["clips"]["advice"], "a program reads all of it"


@pytest.mark.parametrize("words", [["--preset", "small"], ["--preset=small", "VIDEOS"]])
def test_a_preset_is_the_recipe_of_that_name(words: list[str]) -> None:
    assert default_settings(words, PretrainConfig) == read_recipe(Path("recipes/small.yaml"))
    assert default_settings(["--preset", "linear_ucf101"], FinetuneConfig).classifier.freeze


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "smal"], "--preset smal: there is no such recipe; did you mean `small`"),
        (["--preset", "small", "mine.yaml"], "--preset small and mine.yaml: give one of them"),
        (["--preset", "linear_ucf101"], "unknown key `classifier`"),
    ],
)
def test_a_preset_that_cannot_be(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        default_settings(words, PretrainConfig)
