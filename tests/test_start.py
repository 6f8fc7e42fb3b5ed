import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fima.checkpoints.checkpoint import load_checkpoint, restore, versions
from fima.checkpoints.pretrained import encoder_file, load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.errors import ConfigError, DataError
from fima.method.fima import FIMA
from fima.method.inputs import StepLosses
from fima.train.optimizer import build_optimizer
from fima.train.pretrain import pretrain
from fima.train.resume import first_progress, start_from
from fima.visual.report.runs import read_run
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS, assert_same_training, make_videos, read_lines, with_settings
from tests.test_loop import at_step, raise_signal


def kill(losses: StepLosses) -> None:
    raise InterruptedError


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of two epochs."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "first")
    pretrain(SMALL_CONFIG, data=videos, out=run.root)
    return run.last


def test_progress_counts_whole_epochs() -> None:
    progress = first_progress(with_settings("optim", epochs=5), num_videos=9, epoch=3)
    assert (progress.epoch, progress.step, progress.step_in_epoch) == (3, 9, 0)
    with pytest.raises(ConfigError, match=r"--optim\.epochs 2: 2 are done already"):
        first_progress(SMALL_CONFIG, num_videos=8, epoch=2)


def test_a_new_run_begins_with_the_weights_of_another(finished: Path) -> None:
    config = with_settings("optim", epochs=4, momentum=0.5, weight_decay=0.25)
    begun = start_from(finished, config, num_videos=8)
    saved = load_checkpoint(finished)
    assert begun.progress.epoch == 2
    assert begun.saved is not None
    assert all(torch.equal(begun.saved.model[name], weight) for name, weight in saved.model.items())
    method = FIMA(config.model, config.method)
    optimizer = build_optimizer(method, config.optim)
    restore(begun.saved, method, optimizer, source=finished)
    assert [(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.25)]
    kept = saved.optimizer["state"][0]["momentum_buffer"]
    assert torch.equal(optimizer.state_dict()["state"][0]["momentum_buffer"], kept)


def test_the_schedule_goes_on_where_the_checkpoint_was(videos: Path, finished: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "second", tmp_path / "checkpoints")
    config = with_settings("optim", epochs=4)
    result = pretrain(config, data=videos, out=run.root, checkpoints=run.checkpoints, resume_from=finished.parents[1])
    assert (result.progress.epoch, result.progress.step) == (4, 8)
    assert run.record()["resume_from"] == str(finished.resolve())
    assert [line["epoch"] for line in read_lines(run.metrics, "epoch")] == [3, 4]
    assert encoder_file(run.root) == run.last.resolve() == (tmp_path / "checkpoints" / "last.pt").resolve()


def test_a_run_can_begin_at_a_later_epoch(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["pretrain", str(videos), "--out", str(out), "--start-epoch", "1", *SMALL_FLAGS]) == 0
    assert [line["epoch"] for line in read_lines(RunFolder(out).metrics, "epoch")] == [2]


@pytest.mark.parametrize("of_another_run", [True, False])
def test_a_run_that_is_killed_before_its_first_checkpoint_begins_where_it_began(
    of_another_run: bool, videos: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin: dict[str, Any] = {"resume_from": finished} if of_another_run else {"start_epoch": 2}
    config, whole, killed = with_settings("optim", epochs=3), RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    pretrain(config, data=videos, out=whole.root, **begin)
    with monkeypatch.context() as patch:
        at_step(patch, 1, kill)
        with pytest.raises(InterruptedError):
            pretrain(config, data=videos, out=killed.root, **begin)
    for _ in range(2):  # the second call finds nothing left to do
        pretrain(config, data=videos, out=killed.root, resume=True)
    assert [line["epoch"] for line in read_lines(killed.metrics, "epoch")] == [3]
    assert_same_training(load_checkpoint(killed.last), load_checkpoint(whole.last))


@pytest.mark.parametrize("words", [["--resume-from", "x.pt"], ["--start-epoch", "1"]])
def test_a_resumed_run_has_its_own_beginning(
    words: list[str], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(videos), "--out", str(tmp_path / "run"), "--resume", *words]) == 2
    assert "are for a new run" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["hello", "[1]", "{checkpoints: 5}", "{start_epoch: x}"])
def test_a_record_that_was_damaged_by_hand_is_named(record: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"optim: {{epochs: 2}}\nrecord: {record}\n")
    for read in (RunFolder.of, partial(read_run, name="run")):
        with pytest.raises(ConfigError, match=r"config\.yaml: its `record` is damaged"):
            read(tmp_path)


def test_what_the_authors_file_does_not_say_is_not_known_of_the_converted_one(finished: Path, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.pth.tar", tmp_path / "ours.pt"
    assert main(["convert", str(finished), str(theirs), "--to", "official"]) == 0
    assert main(["convert", str(theirs), str(ours)]) == 0
    known = {
        file: load_pretrained(file, device=torch.device("cpu")).knows_settings for file in (finished, theirs, ours)
    }
    assert known == {finished: True, theirs: False, ours: False}


def test_a_list_beside_the_videos_moves_with_them(videos: Path, tmp_path: Path) -> None:
    here, there = (tmp_path / name for name in ("here", "there"))
    shutil.copytree(videos, here / "videos")
    rows = [f"{path.relative_to(videos)},train" for path in sorted(videos.glob("*/*.avi"))]
    (here / "list.csv").write_text("\n".join(["path,split", *rows]))
    (here / "bad.txt").write_text(f"{sorted(videos.glob('*/*.avi'))[0].relative_to(videos)}\n")
    words = ["--out", str(tmp_path / "run"), *SMALL_FLAGS, "--run.health-epochs", "0"]

    def lists(folder: Path) -> list[str]:
        return ["--data.annotations", str(folder / "list.csv"), "--data.exclude", str(folder / "bad.txt")]

    assert main(["pretrain", str(here / "videos"), *words, *lists(here)]) == 0
    here.rename(there)
    more = ["--resume", "--optim.epochs", "3"]
    assert main(["pretrain", str(there / "videos"), *words, *lists(there), *more]) == 0
    (there / "bad.txt").write_text("")
    more = ["--resume", "--optim.epochs", "4"]
    assert main(["pretrain", str(there / "videos"), *words, *lists(there), *more]) == 2


def test_lists_given_by_relative_paths_are_found_from_another_folder(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.txt").write_text(f"{sorted(videos.glob('*/*.avi'))[0].relative_to(videos)}\n")
    words = ["pretrain", str(videos), "--out", str(tmp_path / "run"), *SMALL_FLAGS, "--run.health-epochs", "0"]
    monkeypatch.chdir(tmp_path)
    relative = ["--data.exclude", "bad.txt"]
    assert main([*words, *relative]) == 0
    assert main([*words, *relative, "--resume", "--optim.epochs", "3"]) == 0
    assert "--data.exclude" not in capsys.readouterr().out.partition("goes on with")[2]
    monkeypatch.chdir(videos)
    assert main([*words, "--resume", "--optim.epochs", "4"]) == 0


def test_other_videos_are_named_as_such_where_the_queues_follow_from_their_number(videos: Path, tmp_path: Path) -> None:
    config = with_settings("method", with_settings("optim", epochs=1), queue_size=None, cell_queue_size=None)
    pretrain(config, data=videos, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"4 training videos, but the run .* was started with 8"):
        pretrain(config, data=make_videos(tmp_path / "few", 2), out=tmp_path / "run", resume=True)


def test_fewer_epochs_than_have_begun_are_refused(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 3, raise_signal(signal.SIGUSR1))
        pretrain(SMALL_CONFIG, data=videos, out=tmp_path / "run")
    fewer = with_settings("optim", epochs=1)
    with pytest.raises(ConfigError, match=r"--optim.epochs 1: epoch 2 has begun.* give 2 or more"):
        pretrain(fewer, data=videos, out=tmp_path / "run", resume=True)
    assert pretrain(SMALL_CONFIG, data=videos, out=tmp_path / "run", resume=True).progress.epoch == 2


def test_curves_of_a_run_that_begins_again_are_not_doubled(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings("run", with_settings("optim", batch_size=2), health_epochs=0, picture_epochs=0)
    with monkeypatch.context() as patch:
        at_step(patch, 4, kill)
        with pytest.raises(InterruptedError):
            pretrain(config, data=videos, out=tmp_path / "run")
    pretrain(config, data=videos, out=tmp_path / "run", resume=True)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [*range(1, 9)]


def test_a_run_that_goes_on_with_another_torch_says_so(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(with_settings("optim", epochs=1), data=videos, out=tmp_path / "run")
    monkeypatch.setattr("fima.train.resume.versions", lambda: {**versions(), "torch": "9.0"})
    pretrain(SMALL_CONFIG, data=videos, out=tmp_path / "run", resume=True)
    said = capsys.readouterr().out
    assert f"goes on with --optim.epochs 2 (before: 1), torch 9.0 (before: {torch.__version__})" in said
    assert "fima" not in said.partition("goes on with")[2].partition("\n")[0]
