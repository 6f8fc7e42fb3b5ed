import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fima.authors.flags import parse_flags
from fima.authors.launch import Launch, check_port, plan_launch, run_processes
from fima.authors.main import main
from fima.checkpoints.checkpoint import save_checkpoint
from fima.errors import ConfigError
from fima.torch_tools.distributed import init_from_environment
from tests.gloo import free_port
from tests.test_checkpoint import make_checkpoint
from tests.test_official import DISTRIBUTED, REPOSITORY, write_ucf101
from tests.video_files import write_ucf101_avi

SMALL = "-a tiny -fpc 4 -cs 32 -b 4 -j 0 --epochs 2 --cos"


def launch(line: str, gpus: int = 0, **environment: str) -> Launch:
    return plan_launch(parse_flags("train", [*shlex.split(line), "DIR"]), gpus=gpus, environment=environment)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """PyTorch's launcher leaves its handlers behind, which other tests in this process would meet."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_one_process_needs_no_port() -> None:
    for line in ("", DISTRIBUTED, "--world_size 1 --rank 0", "--gpu 1", "--world_size -1 --rank -1"):
        assert launch(line) == Launch()
        assert launch(line, gpus=1).prefix == ["fima"]


def test_processes_of_several_gpus_and_machines() -> None:
    one = launch(DISTRIBUTED, gpus=4)
    assert (one.nodes, one.local, one.total, one.address, one.port) == (1, 4, 4, "localhost", 10001)
    assert shlex.join(one.prefix).startswith("torchrun --nnodes 1 --nproc-per-node 4 --node-rank 0 ")
    two = launch("--multiprocessing_distributed --world_size 2 --rank 1 --dist_url tcp://host:99", gpus=4)
    assert shlex.join(two.prefix) == (
        "torchrun --nnodes 2 --nproc-per-node 4 --node-rank 1 --master-addr host --master-port 99 -m fima"
    )
    on_cpu = launch("--multiprocessing_distributed --world_size 2 --rank 1")
    assert on_cpu.environment == {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost", "MASTER_PORT": "10001",
    }  # fmt: skip
    single = launch("--world_size 2 --rank 1", gpus=4)
    assert (single.local, single.total, single.environment["LOCAL_RANK"]) == (1, 2, "1")
    assert launch("--world_size 2 --rank 1 --gpu 3", gpus=4).environment["LOCAL_RANK"] == "3"


def test_processes_from_the_environment() -> None:
    found = {"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "host", "MASTER_PORT": "99", "LOCAL_RANK": "1"}
    started = launch("--dist_url env://", gpus=2, **found)
    assert (started.total, started.node_rank, started.gpu, started.opens_port) == (3, 2, 1, False)
    with pytest.raises(ConfigError, match="the variable RANK is ``, not a number"):
        launch("--dist_url env://", WORLD_SIZE="2")


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--dist_url tcp://localhost:{port}: the port cannot be used"):
            check_port(Launch(local=2, port=port))
        check_port(Launch(nodes=2, node_rank=1, port=port))
    check_port(Launch(local=2, port=free_port()))


def test_processes_that_do_not_meet_are_told_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        for name, value in Launch(nodes=2, port=taken.getsockname()[1]).environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="the processes have not met at localhost:"):
            init_from_environment(torch.device("cpu"))


@pytest.mark.parametrize(("number", "shown"), [("2", "2"), (None, "(not set)")])
def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, number: str | None, shown: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if number is not None:
        monkeypatch.setenv("LOCAL_RANK", number)
    with pytest.raises(ConfigError, match=re.escape(f"LOCAL_RANK {shown}: each process needs a GPU of its own, and 2")):
        init_from_environment(torch.device("cuda"))


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time; rank = int(os.environ['RANK'])\n{text}"]


# PyTorch's launcher leaves its log files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("text", "code", "errors"),
    [
        ("pass", 0, ""),
        ("sys.exit(3 if rank == 1 else 0)", 3, ""),
        ("print('reason', rank, file=sys.stderr) or (sys.exit(2) if rank == 1 else time.sleep(600))", 2, "reason 1\n"),
        ("os.kill(os.getpid(), 9) if rank == 1 else time.sleep(600)", 137, ""),
        ("sys.exit(2) if rank == 0 else time.sleep(600)", 2, ""),
    ],
)
def test_all_processes_end_when_one_fails(
    text: str, code: int, errors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")
    assert run_processes(script(text), Launch(local=2, port=free_port())) == code
    assert capsys.readouterr().err == errors


def test_a_signal_is_passed_on_once(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import os, pathlib, signal, sys, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "count = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: count.append(1))\n"
        "(here / f'ready{os.environ[\"RANK\"]}').touch()\n"
        "while not count: time.sleep(0.02)\n"
        "time.sleep(0.5)\n"
        "sys.exit(143 if len(count) == 1 else 99)\n"
    )
    parent = (
        "import sys; from fima.authors.launch import Launch, run_processes; "
        f"sys.exit(run_processes([sys.executable, {str(child)!r}], Launch(local=2, port={free_port()})))"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=REPOSITORY, process_group=0)
    try:
        while not all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of UCF101 with real videos."""
    root = tmp_path_factory.mktemp("videos") / "UCF"
    write_ucf101(root, num_classes=2)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for position in range(10):
        name = f"Class00{position % 2}"
        path = f"{name}/v_{name}_g{position + 1:02d}_c01.avi"
        write_ucf101_avi(root / "data" / path, num_frames=12, seed=position, side=40)
        lists["test" if position > 7 else "train"].append(f"{path} {position % 2 + 1}")
    for split, paths in lists.items():
        (root / "anno" / f"{split}list01.txt").write_text("\n".join(paths))
    return root


def test_pretrain_repeat_finetune_evaluate(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, linear = tmp_path / "log", tmp_path / "linear"
    start = ["--log_dir", str(log), *SMALL.split(), "--moco_k", "4", *DISTRIBUTED.replace("'", "").split(), str(videos)]
    assert main("train", start) == 0
    assert "train.py: fima pretrain" in capsys.readouterr().out
    last = log / "checkpoints" / "last.pt"
    assert last.exists()
    assert main("train", start) == 2
    assert f"--log_dir {log}: already holds a run; continue it with --resume" in capsys.readouterr().err
    assert main("train", [*start, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out

    probing = ["--log_dir", str(linear), "--pretrained", str(last), "--num_class", "101", "--freeze", *SMALL.split()]
    assert main("eval", [*probing, "-cpv", "2", str(videos)]) == 0
    output = capsys.readouterr()
    assert "UCF has 2 classes; the classifier gets 2" in output.err
    assert "eval.py: fima finetune" in output.out
    classifier = linear / "checkpoints" / "last.pt"
    evaluation = ["-e", "--resume", str(classifier), "-cpv", "2", "-j", "0", "--log_dir", str(tmp_path / "e")]
    assert main("eval", [*evaluation, str(videos)]) == 0
    assert (tmp_path / "e" / "evaluate.json").exists()
    assert main("eval", [*evaluation, "-a", "i3d", str(videos)]) == 2
    assert "tiny" in capsys.readouterr().err


def test_another_architecture_ends_before_the_training(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "last.pt"
    save_checkpoint(checkpoint, make_checkpoint())
    out = tmp_path / "log"
    line = f"--log_dir {out} --pretrained {checkpoint} {SMALL} -a r3d_18 {videos}"
    assert main("eval", shlex.split(line)) == 2
    assert f"{checkpoint}: its encoder is tiny, not r3d_18" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_two_processes_on_one_machine_train_together(videos: Path, tmp_path: Path) -> None:
    distributed = f"--multiprocessing_distributed --world_size 2 --dist_url tcp://localhost:{free_port()}"
    line = f"--log_dir {tmp_path / 'log'} {SMALL} --moco_k 4 {distributed} {videos} --rank"
    commands = [[sys.executable, str(REPOSITORY / "train.py"), *shlex.split(line), str(rank)] for rank in (0, 1)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "torchrun --nnodes 2 --nproc-per-node 1 --node-rank 1" in outputs[1]
    assert "2 x cpu" in outputs[0]
    assert (tmp_path / "log" / "checkpoints" / "last.pt").exists()
