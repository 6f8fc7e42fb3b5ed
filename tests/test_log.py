"""What a run says on a terminal, and what it does when its records cannot be written."""

import io
import itertools
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fima.checkpoints.run_folder import RunFolder
from fima.files.jsonl import read_lines
from fima.train import log, meters
from fima.train import pretrain as pretraining
from fima.train.pretrain import pretrain, pretrain_step
from fima.train.step import Measured
from tests.small_runs import with_settings


class FullDisk(io.StringIO):
    """What a file on a full disk is to a program whose output goes there."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


ONE_EPOCH = with_settings("run", with_settings("optim", epochs=1), health_epochs=0)


def test_a_terminal_sees_the_steps_and_the_loss(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(log, "Console", lambda: Console(file=screen, force_terminal=True, width=200))
    pretrain(ONE_EPOCH, data=videos, out=tmp_path / "run")
    said = screen.getvalue()
    (line, *_) = (line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["step"] == 2)
    assert "2/2" in said
    assert f"loss {line['loss']:.3f}" in said
    assert "epoch 1/1 · loss" in said
    assert "epoch 1/1" not in capsys.readouterr().out  # above the bar, and only there


def test_in_the_means_of_an_epoch_every_video_counts_once(videos: Path, tmp_path: Path) -> None:
    pretrain(with_settings("optim", ONE_EPOCH, batch_size=6), data=videos, out=tmp_path / "run")
    whole, short, epoch = read_lines(tmp_path / "run" / "metrics.jsonl")
    for name in ("loss", "instance", "foreground_share", "instance_top1"):
        assert epoch[name] == pytest.approx((6 * whole[name] + 2 * short[name]) / 8)
    assert epoch["loss"] != pytest.approx((whole["loss"] + short["loss"]) / 2)


def test_each_step_of_an_epoch_has_its_own_time(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0]

    def step_of_a_second(*arguments: Any, **options: Any) -> Measured:  # noqa: ANN401
        clock[0] += 1
        return pretrain_step(*arguments, **options)

    monkeypatch.setattr(meters, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(pretraining, "pretrain_step", step_of_a_second)
    pretrain(with_settings("optim", ONE_EPOCH, batch_size=2), data=videos, out=tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [(line["kind"], line["seconds"]) for line in lines] == [*[("step", 1)] * 4, ("epoch", 4)]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_narrow_terminal_sees_the_time_that_is_left(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(log, "Console", lambda: Console(file=screen, force_terminal=True, width=width))
    losses = {"loss": 16.2256, "instance": 4.63, "frame": 5.8861, "cell": 5.7095}
    with log.RunLog(RunFolder(tmp_path), num_steps=1200, first_step=0, enabled=True) as records:
        records.advance(1200, losses, {"videos_per_second": 46.3, "data_wait_share": 0.06})
    last = screen.getvalue().split("step")[-1]
    assert "1200/1200" in last
    assert "0:00:00" in last
    assert "loss 16.226" in last or width == 40
    assert "…" not in last


def test_a_run_goes_on_without_tensorboard(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fima.train.log.SummaryWriter.add_scalar", full_disk)
    result = pretrain(ONE_EPOCH, data=videos, out=tmp_path / "run")
    assert result.progress.epoch == 1
    assert capsys.readouterr().err.count("no more events for TensorBoard: they cannot be written (No space left") == 1
    kinds = [line["kind"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert kinds == ["step", "step", "epoch"]


def test_a_full_disk_under_the_threads_of_tensorboard_is_one_line(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*arguments: object) -> None:
        if next(events) > 2:
            raise OSError(28, "No space left on device")

    events = itertools.count()
    before = threading.excepthook
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full_disk)
    pretrain(ONE_EPOCH, data=videos, out=tmp_path / "run")
    assert threading.excepthook is before
    error = capsys.readouterr().err
    assert error.count("no more events for TensorBoard: they cannot be written (No space left") == 1
    assert "Traceback" not in error


def test_a_run_goes_on_where_its_output_goes_to_a_full_disk(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err, config = FullDisk(), FullDisk(), with_settings("optim", ONE_EPOCH, batch_size=9)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        result = pretrain(config, data=videos, out=tmp_path / "run")
    assert result.progress.epoch == 1
    assert "epoch 1/1" in out.getvalue()
    assert "fima: warning: --optim.batch-size 9: more than the 8 videos" in err.getvalue()
    assert RunFolder(tmp_path / "run").last.exists()
