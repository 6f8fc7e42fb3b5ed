"""Runs in several processes: one that fails, one that hangs, one that is killed and started again; and on two nodes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fima.checkpoints.checkpoint import load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.errors import ConfigError
from fima.files.jsonl import read_lines
from fima.files.lock import FolderLock
from tests.gloo import communicated, start_as_one_run
from tests.small_runs import SMALL_FLAGS
from tests.started import Started

LONGEST_SECONDS = 120
NODE_ADDRESSES = ("10.77.0.1", "10.77.0.2")
LONG_RUN = ["--optim.epochs", "500", "--run.health-epochs", "0"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start_pair(folders: list[Path], out: Path, *flags: str) -> list[Started]:
    """Start two processes of one run, each with its own folder of videos."""
    return start_as_one_run(*(["pretrain", folder, "--out", out, *SMALL_FLAGS, *flags] for folder in folders))


def wait_for_step(run: RunFolder, step: int) -> None:
    """Wait until a run has recorded a step."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not any(line["step"] >= step for line in read_lines(run.metrics)):
        assert time.monotonic() < deadline, "the run does not begin"
        time.sleep(0.05)


def errors(processes: list[Started]) -> list[str]:
    """What processes that end by themselves say."""
    return [said for _, said in communicated(processes, LONGEST_SECONDS)]


def test_a_process_that_fails_says_why_and_the_other_ends(videos: Path, tmp_path: Path) -> None:
    processes = start_pair([videos, tmp_path / "nothing"], tmp_path / "run")
    first, second = errors(processes)
    assert [process.returncode for process in processes] == [1, 2], first + second
    assert f"fima: error (process 1 of 2): {tmp_path / 'nothing'}" in second
    assert "fima: error (process 0 of 2): another process of the run has ended" in first
    assert "Traceback" not in first + second


def test_processes_with_other_videos_or_settings_are_no_run(videos: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(videos, tmp_path / "copy"))
    (other / "a" / "00.avi").rename(other / "a" / "renamed.avi")
    run = tmp_path / "run"
    for said in errors(start_pair([videos, other], run)):
        assert f"process 1 of the run has {other}: 8 training videos, not those of process 0 ({videos}: 8)" in said
    commands = (["pretrain", videos, "--out", run, *SMALL_FLAGS, "--optim.lr", lr] for lr in ("0.05", "0.1"))
    processes = start_as_one_run(*commands)
    for said in errors(processes):
        assert "process 1 of the run has --optim.lr 0.1: process 0 has 0.05" in said
    assert [process.returncode for process in processes] == [2, 2]
    assert not run.exists()


def test_processes_that_read_different_checkpoints_do_not_go_on(videos: Path, pretrained: Path, tmp_path: Path) -> None:
    runs = [RunFolder(Path(shutil.copytree(pretrained.parents[1], tmp_path / name))) for name in "ab"]
    runs[1].last.unlink()
    words = ["--resume", *SMALL_FLAGS, "--optim.epochs", "9"]
    processes = start_as_one_run(*(["pretrain", videos, "--out", run.root, *words] for run in runs))
    for said in errors(processes):
        assert "the processes would go on from different checkpoints (process 0: last.pt of step" in said
    assert [process.returncode for process in processes] == [2, 2]
    assert not runs[1].last.exists()


def test_a_signal_to_one_process_stops_all_and_none_of_them_calls_the_run_finished(
    videos: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    processes = start_pair([videos, videos], run.root, *LONG_RUN)
    try:
        wait_for_step(run, 1)
        processes[1].send_signal(signal.SIGUSR1)
    finally:
        said = errors(processes)
    assert [process.returncode for process in processes] == [128 + signal.SIGUSR1] * 2, said
    assert load_checkpoint(run.last).progress.step == max(line["step"] for line in read_lines(run.metrics))


def test_going_on_in_another_number_of_processes_says_what_changes(videos: Path, tmp_path: Path) -> None:
    words = ["pretrain", videos, "--out", tmp_path / "run", *SMALL_FLAGS, "--run.health-epochs", "0"]
    assert main([*map(str, words), "--optim.epochs", "1"]) == 0
    processes = start_as_one_run(*[[*words, "--resume"]] * 2)
    (first, _), (second, _) = communicated(processes, LONGEST_SECONDS)
    assert [process.returncode for process in processes] == [0, 0], first + second
    said = "processes: 2 (before: 1), each with 2 videos of a step (before: 4) for its batch norm"
    assert first.count(said) == 1
    assert said not in second


@pytest.mark.slow
def test_a_process_that_hangs_is_not_waited_for(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    processes = start_pair([videos, videos], run.root, *LONG_RUN, "--run.timeout-minutes", "0.1")
    try:
        wait_for_step(run, 3)  # in the second epoch, so that there is a checkpoint
        processes[1].send_signal(signal.SIGSTOP)
        (first,) = errors(processes[:1])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == 1, first
    assert "another process of the run has ended or does not answer" in first
    assert str(run.last) in first


def torchrun(videos: Path, run: RunFolder) -> subprocess.Popen[str]:
    """Start a run of two processes that are started again when one of them dies."""
    words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m", "fima", "pretrain", str(videos)]
    flags = ["--optim.epochs", "8", "--run.health-epochs", "0", "--run.checkpoint-minutes", "1e-9", "--auto-resume"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words, "--out", str(run.root), *SMALL_FLAGS, *flags],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def child_processes(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in children.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_process_is_started_again_and_the_run_ends_as_if_nothing_had_been(
    videos: Path, tmp_path: Path
) -> None:
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    process = torchrun(videos, whole)
    assert process.communicate(timeout=LONGEST_SECONDS)[0].count("epoch 8/8") == 1
    process = torchrun(videos, killed)
    try:
        wait_for_step(killed, 3)
        os.kill(child_processes(process.pid)[-1], signal.SIGKILL)
        output = process.communicate(timeout=LONGEST_SECONDS)[0]
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "continuing after step" in output
    first, second = (load_checkpoint(run.last) for run in (killed, whole))
    assert first.progress == second.progress
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    steps = [[line["step"] for line in read_lines(run.metrics) if line["kind"] == "step"] for run in (killed, whole)]
    assert steps[0] == steps[1] == list(range(1, 17))


@dataclass(frozen=True)
class Node:
    """A network namespace: a machine of its own as far as the network is concerned."""

    name: str
    interface: str
    address: str

    def command(self, *words: str) -> list[str]:
        """What runs a command on it."""
        return ["ip", "netns", "exec", self.name, *words]


def ip(*words: str) -> None:
    """Run `ip`, and raise with what it says where that fails."""
    outcome = subprocess.run(["ip", *words], capture_output=True, text=True)
    if outcome.returncode:
        raise OSError(f"ip {' '.join(words)}: {outcome.stderr.strip()}")


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes with a cable between them and nothing else."""
    first, second = (
        Node(f"fima-{os.getpid()}-{number}", f"node{number}", address) for number, address in enumerate(NODE_ADDRESSES)
    )
    try:
        for node in (first, second):
            ip("netns", "add", node.name)
        cable = ("netns", second.name, "name", second.interface)
        ip("link", "add", first.interface, "netns", first.name, "type", "veth", "peer", *cable)
        for node in (first, second):
            ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", node.interface)
            ip("-n", node.name, "link", "set", node.interface, "up")
            ip("-n", node.name, "link", "set", "lo", "up")
    except OSError as error:
        remove(first, second)
        pytest.skip(f"no network namespaces here ({error})")
    yield first, second
    remove(first, second)


def remove(*nodes: Node) -> None:
    for node in nodes:
        subprocess.run(["ip", "netns", "delete", node.name], capture_output=True)


def on_node(node: Node, videos: Path, run: RunFolder, *flags: str) -> subprocess.Popen[str]:
    """Start a node's part of a run of two nodes, as the script in docs/reliability.md does."""
    host = node.address == NODE_ADDRESSES[0]
    torchrun = [
        "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two",
        "--rdzv-endpoint", f"{NODE_ADDRESSES[0]}:29500", "--rdzv-conf", f"is_host={int(host)}",
        # Both have the same host name here, which stands for neither.
        "--local-addr", node.address,
    ]  # fmt: skip
    words = [*torchrun, "-m", "fima", "pretrain", str(videos), "--out", str(run.root), *SMALL_FLAGS, *flags]
    return subprocess.Popen(
        node.command(sys.executable, "-m", "torch.distributed.run", *words),
        env=environment(GLOO_SOCKET_IFNAME=node.interface),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_nodes_are_one_run(nodes: tuple[Node, Node], videos: Path, tmp_path: Path) -> None:
    apart, together = RunFolder(tmp_path / "apart"), RunFolder(tmp_path / "together")
    processes = [on_node(node, videos, apart) for node in nodes]
    try:
        outputs = [process.communicate(timeout=LONGEST_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "2 x cpu" in outputs[0] + outputs[1]
    assert (outputs[0] + outputs[1]).count("epoch 2/2") == 1
    pair = start_pair([videos, videos], together.root)
    said = errors(pair)
    assert [process.returncode for process in pair] == [0, 0], said
    first, second = (load_checkpoint(run.last) for run in (apart, together))
    assert first.progress == second.progress
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    steps = [[line["step"] for line in read_lines(run.metrics) if line["kind"] == "step"] for run in (apart, together)]
    assert steps[0] == steps[1] == [1, 2, 3, 4]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_what_a_killed_run_leaves_behind_does_not_hold_its_folder(tmp_path: Path) -> None:
    """Processes that decode notice only after seconds that the one that started them is gone."""
    code = (
        "import multiprocessing, pathlib, sys, time; from fima.files.lock import FolderLock; "
        "lock = FolderLock(pathlib.Path(sys.argv[1])); lock.take(); "
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(30,)); child.start(); "
        "print(child.pid, flush=True); time.sleep(30)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    child = int(run.stdout.readline())
    lock = FolderLock(tmp_path)
    try:
        time.sleep(0.5)
        with pytest.raises(ConfigError, match="another process is at work"):
            lock.take()
        run.kill()
        run.wait()
        os.kill(child, 0)
        lock.take()
    finally:
        run.kill()
        os.kill(child, signal.SIGKILL)  # first, as it holds the pipe that is read to its end
        run.communicate()
        lock.release()
