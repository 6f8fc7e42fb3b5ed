"""Ctrl-C and the signals of schedulers: requests to stop, and what becomes of a run."""

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fima.checkpoints.checkpoint import load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.files.jsonl import read_lines
from fima.train import loop
from fima.train import pretrain as pretraining
from fima.train.health import check_health
from fima.train.pretrain import pretrain, pretrain_step
from fima.train.signals import StopRequest
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS
from tests.started import Started, print_to

WAITING = """
import hashlib, multiprocessing, signal, sys, time
from fima.train.signals import StopRequest

def hang():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(3600)

def end_of_a_child():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,), daemon=True)
    child.start()
    time.sleep(0.1)
    child.terminate()
    time.sleep(1)
    child.kill()

with StopRequest(float(sys.argv[2])) as stop:
    stop.step_seconds = float(sys.argv[3])
    worker = multiprocessing.get_context("fork").Process(target=hang, daemon=True)
    worker.start()
    print("ready", flush=True)
    if sys.argv[1] == "in a decoder":  # no Python runs meanwhile
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    if sys.argv[1] == "for a worker":
        worker.join()
    if sys.argv[1] == "after its child":
        end_of_a_child()
    while sys.argv[1] == "a step" and stop.signal_number is None:
        time.sleep(0.01)
    time.sleep(0.5)
    print("step done", flush=True)
    worker.kill()
"""


class TestSignals:
    """Requests to stop."""

    def test_the_first_asks_others_change_nothing_and_a_second_ctrl_c_ends_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        with StopRequest(600) as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert stop.signal_number == signal.SIGUSR1
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGINT)  # the echo of the first, from torchrun
            assert stop.signal_number == signal.SIGUSR1
            clock[0] = 2.0
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def test_a_run_in_a_thread_leaves_signals_to_the_program(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        numbers: list[int | None] = []

        def run() -> None:
            with StopRequest(600) as stop:
                assert signal.getsignal(signal.SIGTERM) is before
                numbers.append(stop.signal_number)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert numbers == [None]

    @pytest.mark.parametrize(
        ("work", "grace", "step", "ends"),
        [
            ("in a decoder", 0.2, 0, True),
            ("for a worker", 0.1, 0.1, True),
            ("a step", 0.2, 0, True),
            ("a step", 0.2, 60, False),
            ("a step", 60, 0, False),
            ("a step", 0, 0.2, False),
        ],
    )
    def test_sigterm_ends_whatever_is_done_in_time(self, work: str, grace: float, step: float, ends: bool) -> None:
        words = [sys.executable, "-c", WAITING, work, str(grace), str(step)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            # Its pipes end when the process that decodes is gone as well.
            output, errors = process.communicate(timeout=300)
        finally:
            process.kill()
        said = f"fima: SIGTERM: not done {grace + step:.3g} s later, so ended; the last checkpoint is as it was"
        assert [line for line in errors.splitlines() if "stopping after this step" not in line] == [said] * ends
        assert process.returncode == (128 + signal.SIGTERM if ends else 0)
        assert output == ("" if ends else "step done\n")

    def test_sigterm_to_a_child_is_nothing_to_its_parent(self) -> None:
        words = [sys.executable, "-c", WAITING, "after its child", "0.2", "0"]
        outcome = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert (outcome.returncode, outcome.stdout) == (0, "ready\nstep done\n"), outcome.stderr

    def test_a_queue_starts_continues_and_repeats_a_run_with_one_command(
        self, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = RunFolder(tmp_path / "run")
        words = ["pretrain", str(videos), "--out", str(run.root), *SMALL_FLAGS, "--auto-resume"]
        steps = [0]

        def signal_at_the_third_step(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            steps[0] += 1
            if steps[0] == 3:
                signal.raise_signal(signal.SIGUSR1)
            return pretrain_step(*arguments, **options)

        monkeypatch.setattr(pretraining, "pretrain_step", signal_at_the_third_step)
        assert main(words) == 128 + signal.SIGUSR1
        assert load_checkpoint(run.last).progress.step == 3
        assert main(words) == 0
        assert steps[0] == 4
        assert main(words) == 0
        assert "finished already" in capsys.readouterr().out
        assert main([*words, "--resume"]) == 2

    def test_no_step_follows_a_signal_between_two_epochs(
        self, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = RunFolder(tmp_path / "run")

        def check_and_signal(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            signal.raise_signal(signal.SIGTERM)
            return check_health(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(pretraining, "check_health", check_and_signal)
            result = pretrain(SMALL_CONFIG, data=videos, out=run.root)
        assert result.signal_number == signal.SIGTERM
        assert load_checkpoint(run.last).progress == result.progress
        assert (result.progress.epoch, result.progress.step) == (1, 2)
        pretrain(SMALL_CONFIG, data=videos, out=run.root, resume=True)
        assert [line["epoch"] for line in read_lines(run.metrics) if line["kind"] == "health"] == [1, 2]

    def test_an_epoch_that_ends_with_the_run_is_still_measured(
        self, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = RunFolder(tmp_path / "run")

        def die(*arguments: object) -> None:
            raise SystemError("killed")

        for _ in range(2):  # after the first epoch and after the last one
            with monkeypatch.context() as patch:
                patch.setattr(pretraining, "check_health", die)
                with pytest.raises(SystemError):
                    pretrain(SMALL_CONFIG, data=videos, out=run.root, resume=run.config.exists())
            if load_checkpoint(run.last).progress.epoch == 1:
                with monkeypatch.context() as patch:
                    patch.setattr(loop, "train_epoch", die)
                    with pytest.raises(SystemError):
                        pretrain(SMALL_CONFIG, data=videos, out=run.root, resume=True)
        pretrain(SMALL_CONFIG, data=videos, out=run.root, resume=True)
        assert [line["epoch"] for line in read_lines(run.metrics) if line["kind"] == "health"] == [1, 2]


def main_on_a_terminal(name: str, words: list[str]) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # with `nohup`, the tests ignore it
    os.setsid()
    print_to(os.open(name, os.O_RDWR))
    os.dup2(1, 2)
    return main(words)


def test_a_terminal_that_is_lost_stops_a_run_after_its_step(videos: Path, tmp_path: Path) -> None:
    """As of an ssh session whose connection breaks."""
    run = RunFolder(tmp_path / "run")
    words = ["pretrain", str(videos), "--out", str(run.root), *SMALL_FLAGS, "--optim.epochs", "1000"]
    terminal, name = pty.openpty()
    process = Started(main_on_a_terminal, os.ttyname(name), words)
    seen = b""
    while b"epoch 2/" not in seen:
        assert process.returncode is None, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 1000)
    os.close(terminal)
    os.close(name)
    process.communicate()
    assert process.returncode == 128 + signal.SIGHUP
    done = load_checkpoint(run.last).progress
    assert done.step == max(line["step"] for line in read_lines(run.metrics) if line["kind"] == "step")


@pytest.mark.parametrize(("before", "expected"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_nohup_is_respected(before: signal.Handlers, expected: bool) -> None:
    earlier = signal.signal(signal.SIGHUP, before)
    try:
        with StopRequest(0) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert (stop.signal_number == signal.SIGHUP) == expected
    finally:
        signal.signal(signal.SIGHUP, earlier)
