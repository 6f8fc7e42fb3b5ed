"""`fima finetune` from the command line, what it refuses, and two processes as one run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import ClassifierCheckpoint, LoadedEncoder, load_checkpoint
from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.config import ClassifierConfig, DataConfig, FinetuneConfig, ModelConfig, PretrainConfig
from fima.data.datasets import VideoList
from fima.errors import CheckpointError, ConfigError, DataError
from fima.files.lock import FolderLock
from fima.recipe import read_recipe
from fima.train.finetune import finetune
from fima.train.finetune_setup import (
    LabelledLists,
    clips_in_words,
    clips_shown,
    cover,
    find_encoder,
    find_lists,
    narrow_test,
    published_schedule,
    resolve,
)
from fima.train.pretrain import pretrain
from tests.finetune_runs import FROZEN, SMALL, after, changed, pretrain_once
from tests.gloo import communicated, start_as_one_run
from tests.small_runs import flags_of, with_settings
from tests.video_files import write_ucf101_avi


def test_settings_that_make_no_sense_are_refused(videos: Path, pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"scratch: random weights of which encoder\? Give --classifier.backbone"):
        finetune(changed("classifier", backbone=None), pretrained=None, data=videos, out=out)
    with pytest.raises(ConfigError, match=r"num-classes 101: .* has 2 classes .*; give data .*, or start a new run"):
        finetune(changed("classifier", num_classes=101), pretrained=None, data=videos, out=out)
    with pytest.raises(CheckpointError, match=r"last.pt.*r3d_18"):
        finetune(changed("classifier", backbone="r3d_18"), pretrained=pretrained, data=videos, out=out)
    for flag, value in (("part", "all"), ("clip_sampling", "near")):
        with pytest.raises(ConfigError, match=f"--data.{flag.replace('_', '-')} {value}: .* no place in fine-tuning"):
            finetune(changed("data", SMALL, **{flag: value}), pretrained=None, data=videos, out=out)
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        finetune(SMALL, pretrained=tmp_path / "nothing.pt", data=videos, out=out)
    assert not out.exists()


def test_data_without_classes_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_ucf101_avi(tmp_path / "videos" / split / "0.avi")
    with pytest.raises(DataError, match="1 of the 1 videos of the train list have no class"):
        finetune(SMALL, pretrained=None, data=tmp_path / "videos", out=tmp_path / "run")


def test_resume_needs_the_same_start_settings_and_kind_of_run(videos: Path, pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="holds no run"):
        finetune(changed("classifier", backbone=None), pretrained=None, data=videos, out=out, resume=True)
    finetune(SMALL, pretrained=pretrained, data=videos, out=out)
    with pytest.raises(ConfigError, match="already holds a run"):
        finetune(SMALL, pretrained=pretrained, data=videos, out=out)
    with pytest.raises(CheckpointError, match=r"scratch \(scratch\): the run in .* was started from .*last.pt"):
        finetune(SMALL, pretrained=None, data=videos, out=out, resume=True)
    with pytest.raises(ConfigError, match=r"--optim.lr 0.1: the run in .* has 0.05"):
        finetune(changed("optim", lr=0.1), pretrained=pretrained, data=videos, out=out, resume=True)
    with pytest.raises(ConfigError, match="holds a run of another command"):
        finetune(SMALL, pretrained=pretrained, data=videos, out=pretrained.parent.parent, resume=True)
    longer = finetune(changed("optim", epochs=3), pretrained=pretrained, data=videos, out=out, resume=True)
    assert longer.progress.epoch == 3


def test_a_run_goes_on_where_its_pretrained_file_is_gone(
    videos: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, out = Path(shutil.copytree(pretrained.parent.parent, tmp_path / "start")), tmp_path / "run"
    finetune(SMALL, pretrained=start, data=videos, out=out)
    with_file = Path(shutil.copytree(out, tmp_path / "with_file"))
    finetune(changed("optim", epochs=3), pretrained=start, data=videos, out=with_file, resume=True)
    shutil.rmtree(start)
    words = ["finetune", str(start), str(videos), "--out", str(out), "--resume", "--optim.epochs", "3"]
    assert main(words) == 0
    assert "start/checkpoints/last.pt: no longer there; the run goes on" in capsys.readouterr().err
    results = [json.loads((run / "result.json").read_text()) for run in (out, with_file)]
    assert results[0] == results[1]
    assert main(["finetune", "none.pt", *words[2:]]) == 2, "not what the run began from"


def test_checkpoints_may_lie_apart(videos: Path, tmp_path: Path) -> None:
    out, apart = tmp_path / "run", tmp_path / "apart"
    finetune(SMALL, pretrained=None, data=videos, out=out, checkpoints=apart)
    assert (apart / "last.pt").exists()
    assert not (out / "checkpoints").exists()
    with pytest.raises(ConfigError, match=r"has its checkpoints in .*apart; give --checkpoints"):
        finetune(SMALL, pretrained=None, data=videos, out=out, resume=True)
    with pytest.raises(ConfigError, match=r"--checkpoints .*apart: already holds those of a run"):
        finetune(SMALL, pretrained=None, data=videos, out=tmp_path / "other", checkpoints=apart)
    longer = changed("optim", epochs=3)
    assert finetune(longer, pretrained=None, data=videos, out=out, checkpoints=apart, resume=True).progress.epoch == 3
    for path in apart.glob("last*.pt"):
        path.unlink()
    (tmp_path / "went back").mkdir()
    (tmp_path / "went back" / "healthy.pt").touch()
    with pytest.raises(ConfigError, match=r"--checkpoints .*went back: already holds those of a run"):
        finetune(SMALL, pretrained=None, data=videos, out=tmp_path / "other", checkpoints=tmp_path / "went back")
    both = tmp_path / "both"  # as the authors' `--log_dir X --ckp_dir X`
    finetune(SMALL, pretrained=None, data=videos, out=both, checkpoints=both)
    assert finetune(longer, pretrained=None, data=videos, out=both, checkpoints=both, resume=True).progress.epoch == 3
    another = FolderLock(tmp_path / "new", "checkpoints")
    (tmp_path / "new").mkdir()
    another.take()
    with pytest.raises(ConfigError, match=r"--checkpoints .*new: another process is at work on this run"):
        finetune(SMALL, pretrained=None, data=videos, out=tmp_path / "other", checkpoints=tmp_path / "new")
    another.release()
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match=r"--checkpoints .*apart: already holds those of a run"):
        finetune(SMALL, pretrained=None, data=videos, out=tmp_path / "other", checkpoints=apart)


def test_checkpoints_may_be_moved_to_another_disk(videos: Path, tmp_path: Path) -> None:
    out, disk, longer = tmp_path / "run", tmp_path / "disk", changed("optim", epochs=3)
    finetune(SMALL, pretrained=None, data=videos, out=out)
    (out / "checkpoints").rename(disk)
    with pytest.raises(CheckpointError, match=r"run: is a run without its last checkpoint: there is no .*last.pt"):
        load_pretrained(out, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"has its checkpoints in .*checkpoints; give --checkpoints with where they"):
        finetune(longer, pretrained=None, data=videos, out=out, checkpoints=tmp_path / "nothing", resume=True)
    finetune(changed("optim", lr=0.01), pretrained=None, data=videos, out=tmp_path / "another")
    other = tmp_path / "another" / "checkpoints"
    with pytest.raises(CheckpointError, match=r"last.pt: is of a run with other settings than that in .*run; give the"):
        finetune(longer, pretrained=None, data=videos, out=out, checkpoints=other, resume=True)
    finetune(longer, pretrained=None, data=videos, out=out, checkpoints=disk, resume=True)
    assert RunFolder.of(out).last == disk / "last.pt"
    disk.rename(out / "checkpoints")
    assert RunFolder.of(out).last == out / "checkpoints" / "last.pt"
    (out / "checkpoints").rename(disk)
    (out / "checkpoints").symlink_to(disk)
    longest = changed("optim", epochs=4)
    assert finetune(longest, pretrained=None, data=videos, out=out, resume=True).progress.epoch == 4
    assert finetune(longest, pretrained=None, data=videos, out=out, resume=True).progress.epoch == 4


def test_a_run_goes_on_where_its_pre_training_has_gone_on(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, out, longer = RunFolder(tmp_path / "first"), tmp_path / "run", changed("optim", epochs=3)
    pretrain_once(videos, first.root)
    whole = after(videos, tmp_path / "whole", longer, start=first.last)
    before = after(videos, out, start=first.last).source
    more = with_settings("run", with_settings("optim", epochs=2), health_epochs=0)
    pretrain(more, data=videos, out=first.root, resume=True)
    capsys.readouterr()
    finetune(longer, pretrained=first.last, data=videos, out=out, resume=True)
    said = capsys.readouterr()
    assert "last.pt has changed since the run in" in said.err
    assert "fima tiny, 1 epoch" in said.out
    resumed = load_checkpoint(RunFolder(out).last, ClassifierCheckpoint)
    assert resumed.source == before == RunFolder(out).record()["source"]
    assert all(torch.equal(resumed.model[name], weights) for name, weights in whole.model.items())


def test_the_command_trains_tests_and_continues(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    argv = ["finetune", "scratch", str(videos), "--out", str(run.root)]
    assert main([*argv, *flags_of(SMALL)]) == 0
    assert "finetune/top1" in capsys.readouterr().out
    assert read_recipe(run.config, FinetuneConfig) == SMALL
    assert main([*argv, "--resume"]) == 0
    assert "finished already, 2 epochs" in capsys.readouterr().out
    assert main([*argv, "--resume", "--optim.lr", "1"]) == 2
    assert capsys.readouterr().err.startswith("fima: error: --optim.lr 1.0: the run in")
    recipe = tmp_path / "probe.yaml"
    recipe.write_text(
        "classifier: {freeze: true, backbone: tiny}\noptim: {epochs: 1, schedule: constant, milestones: []}"
    )
    small = ["--data.frames", "4", "--data.crop-size", "32", "--data.workers", "0", "--test.clips", "1"]
    assert main(["finetune", "scratch", str(videos), str(recipe), "--out", str(tmp_path / "probe"), *small]) == 0
    assert "linear_sgd/top1" in capsys.readouterr().out


def sizes(run: RunFolder) -> tuple[int, int]:
    """Frames and crop size of a run, as it has recorded them."""
    data = read_recipe(run.config, FinetuneConfig).data
    return data.frames, data.crop_size


def test_clips_are_those_that_the_encoder_was_trained_on(
    videos: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = changed("data", frames=0, crop_size=0)
    run = RunFolder(tmp_path / "run")
    argv = ["finetune", str(pretrained.parent.parent), str(videos), "--out", str(run.root)]
    assert main([*argv, *flags_of(small)]) == 0
    told = capsys.readouterr()
    assert "from fima tiny, 1 epoch · clips of 4 frames, 32 px, as it was trained" in told.out
    assert "the encoder was trained on" not in told.err
    assert sizes(run) == (4, 32)
    assert json.loads(run.result.read_text())["protocols"]["finetune"]["test_clips"]["frames"] == 4
    # Neither a resumed run nor its queued repetition names them.
    assert main([*argv, "--resume", "--optim.epochs", "3"]) == 0
    assert main([*argv, "--auto-resume", *flags_of(changed("optim", small, epochs=4))]) == 0
    assert sizes(run) == (4, 32)
    assert main([*argv, "--resume", "--data.frames", "8"]) == 2
    assert "--data.frames 8: the run in" in capsys.readouterr().err


def test_other_clips_are_warned_of(
    videos: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, recipe = RunFolder(tmp_path / "run"), tmp_path / "recipe.yaml"
    recipe.write_text("data: {frames: 8, blur: 0, workers: 0}")
    argv = ["finetune", str(pretrained), str(videos), str(recipe), "--out", str(run.root)]
    assert main([*argv, *flags_of(changed("optim", changed("data", frames=0, crop_size=0), epochs=1))]) == 0
    told = capsys.readouterr()
    assert "clips of 8 frames, 32 px" in told.out
    warned = "--data.frames 8, --data.crop-size 32: the encoder was trained on clips of 4 frames, 32 px"
    assert f"fima: warning: {warned}" in told.err
    assert sizes(run) == (8, 32)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"span": (0.7, 1.0)}, True),
        ({"span": (0.85, 0.85)}, True),
        ({"span": (0.9, 1.0)}, False),
        ({"span": (0.7, 1.0), "crop_size": 96}, False),
        ({"stride": 1.0}, False),
    ],
)
def test_a_range_of_spans_covers_the_one_of_the_training(given: dict[str, Any], same: bool) -> None:
    trained = DataConfig(crop_size=80, span=(0.85, 0.85))
    assert cover(DataConfig(**{"crop_size": 80, **given}), trained) is same


def test_clips_of_an_encoder_without_a_past_are_the_papers(videos: Path, pretrained: Path) -> None:
    lists, cpu = find_lists(SMALL, videos), torch.device("cpu")
    scratch = find_encoder(None, SMALL)
    config = resolve(changed("data", frames=0, crop_size=0), scratch, lists, cpu)
    assert (config.data.frames, config.data.crop_size) == (16, 224)
    assert clips_in_words(config, scratch) == ("clips of 16 frames, 224 px", None)
    bare = pretrained.with_name("bare.pt")
    torch.save(load_pretrained(pretrained, device=cpu).encoder.state_dict(), bare)
    unknown = find_encoder(bare, SMALL)
    config = resolve(changed("data", frames=0, crop_size=64), unknown, lists, cpu)
    assert (config.data.frames, config.data.crop_size) == (16, 64)
    assert clips_in_words(config, unknown)[0].endswith("(the file does not say which it was trained on)")


def test_a_narrow_test_is_warned_of(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_ucf101_avi(tmp_path / split / "a" / "0.avi", num_frames=4, side=64)
        write_ucf101_avi(tmp_path / split / "b" / "0.avi", num_frames=4, side=64)
    lists = find_lists(SMALL, tmp_path)
    assert narrow_test(changed("test", ori_resolution=256), lists) is None
    assert narrow_test(changed("test", ori_resolution=None), lists) is None
    warning = narrow_test(changed("test", ori_resolution=32), lists)
    assert warning is not None
    assert warning.startswith("--test.ori-resolution 32: the test crops are 28 pixels of videos of 64")


def test_small_is_pointed_to_its_own_settings() -> None:
    published = FinetuneConfig(classifier=ClassifierConfig(backbone="small"))
    warning = published_schedule(published)
    assert str(warning).endswith("--preset small_finetune has settings for a few hundred videos")
    own = read_recipe(Path("recipes/small_finetune.yaml"), FinetuneConfig)
    assert published_schedule(replace(own, classifier=replace(own.classifier, backbone="small"))) is None
    assert published_schedule(FinetuneConfig(classifier=ClassifierConfig(backbone="i3d"))) is None


def test_pre_training_has_sizes_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"--data.frames 0: must be at least 1"):
        PretrainConfig(data=DataConfig(frames=0))
    with pytest.raises(ConfigError, match=r"--data.crop-size 0: must be at least 8"):
        PretrainConfig(data=DataConfig(crop_size=0))


@pytest.mark.slow
def test_two_processes_are_one_run(videos: Path, tmp_path: Path) -> None:
    config = changed("data", FROZEN, workers=1)
    alone = after(videos, tmp_path / "alone", config).model
    run = RunFolder(tmp_path / "run")
    flags = [*flags_of(config), "--run.timeout-minutes", "inf"]
    processes = start_as_one_run(*[["finetune", "scratch", videos, "--out", run.root, *flags]] * 2)
    (first, _), (second, _) = communicated(processes)
    assert [process.returncode for process in processes] == [0, 0], first + second
    assert "2 x cpu" in first
    assert "linear_sgd/top1" in first
    assert "top1" not in second
    result = json.loads(run.result.read_text())
    assert result["data"]["test"]["num_evaluated"] == 2
    assert result["protocols"]["linear_sgd"]["processes"] == 2
    model = load_checkpoint(run.last, ClassifierCheckpoint).model
    torch.testing.assert_close(model["fc.weight"], alone["fc.weight"], rtol=1e-5, atol=1e-6)
    figures = json.loads((tmp_path / "alone" / "result.json").read_text())["figures"]
    assert result["figures"] == pytest.approx(figures, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (2.0, 0.0, (0.7, 1.0))), ({"stride": 4.0}, (4.0, 0.0, None)), ({"fps": 5.0}, (2.0, 5.0, None))],
)
def test_clips_are_timed_as_in_pre_training_unless_told_otherwise(given: dict[str, Any], expected: object) -> None:
    trained = PretrainConfig(
        model=ModelConfig(backbone="tiny"), data=DataConfig(frames=8, crop_size=32, span=(0.7, 1.0))
    )
    encoder = LoadedEncoder(
        encoder=build_backbone("tiny"), config=trained, checkpoint_hash="x", epoch=None, method="encoder"
    )
    videos = VideoList(videos=[], classes=["a", "b"], root=Path(), split="train", layout="none")
    lists = LabelledLists(train=videos, test=videos, validation=None)
    config = FinetuneConfig(data=DataConfig(frames=0, crop_size=0, **given))
    data = resolve(config, encoder, lists, torch.device("cpu")).data
    assert (data.stride, data.fps, data.span) == expected
    assert (data.frames, data.crop_size) == (8, 32)
    assert clips_shown(trained.data) == "8 frames, 32 px, span (0.7, 1.0)"


def test_a_deleted_video_moves_the_test_split_which_is_said(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after(videos, tmp_path / "run")
    fewer = Path(shutil.copytree(videos, tmp_path / "fewer"))
    words = ["evaluate", str(tmp_path / "run"), "--protocols", "evaluate", "--num-clips", "1", "--device", "cpu"]
    assert main([*words, str(fewer), "--workers", "0"]) == 0
    assert "held out for testing, and" not in capsys.readouterr().err
    for label in "ab":
        shutil.copy(fewer / label / f"0{'ab'.index(label)}.avi", fewer / label / "99.avi")
    assert main([*words, str(fewer), "--workers", "0"]) == 0
    said = capsys.readouterr().err
    assert f"{fewer}: 10 training videos, where the classifier had 8" in said
    assert "it may have been trained on some of these" in said
