"""The batch script of docs/reliability.md, with stand-ins for SLURM's own commands and everything else as it is."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fima.checkpoints.checkpoint import load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.files.jsonl import read_lines
from tests.gloo import free_port
from tests.small_runs import SMALL_FLAGS, make_videos

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"
LONGEST_SECONDS = 120
EPOCHS = 60


def stand_in(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def batch_script(folder: Path, videos: Path, run: RunFolder) -> list[str]:
    """The script on one node with one process, in a folder with the stand-ins; returns what starts it."""
    (text,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", DOCUMENT.read_text(), re.DOTALL)
    flags = shlex.join([*SMALL_FLAGS, "--optim.epochs", str(EPOCHS), "--run.health-epochs", "0"])
    for old, new in (
        ("--nproc-per-node 8", "--nproc-per-node 1"),
        (":29500", f":{free_port()}"),
        ("/data/videos", str(videos)),
        ("/shared/runs/mine", str(run.root)),
        ("--auto-resume", f"--auto-resume {flags}"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    stand_in(folder / "srun", 'exec "$@"')
    stand_in(folder / "scontrol", f'case $1 in show) echo localhost;; requeue) echo "$2" >> {folder}/requeued;; esac')
    stand_in(folder / "torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"')
    (folder / "job.sh").write_text(text)
    return ["bash", str(folder / "job.sh")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the script is for clusters")
def test_the_signal_before_the_end_saves_and_requeues_and_the_next_job_goes_on(tmp_path: Path) -> None:
    videos, run, folder = make_videos(tmp_path / "videos"), RunFolder(tmp_path / "run"), tmp_path / "bin"
    folder.mkdir()
    command = batch_script(folder, videos, run)
    slurm = {"SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "node1", "SLURM_JOB_ID": "17"}
    environment = {**os.environ, **slurm, "PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not any(line["step"] >= 3 for line in read_lines(run.metrics)):
            assert time.monotonic() < deadline, "the run does not begin"
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        said = job.communicate(timeout=LONGEST_SECONDS)[0]
    finally:
        job.kill()
    assert (folder / "requeued").read_text() == "17\n", said
    stopped = load_checkpoint(run.last).progress
    assert 3 <= stopped.step < 2 * EPOCHS
    assert max(line["step"] for line in read_lines(run.metrics)) == stopped.step
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST_SECONDS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"continuing after step {stopped.step}" in again.stdout
    assert load_checkpoint(run.last).progress.epoch == EPOCHS
    assert (folder / "requeued").read_text() == "17\n"
