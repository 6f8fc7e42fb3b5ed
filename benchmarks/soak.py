"""Whether training holds its memory, file descriptors and threads over thousands of steps.

A run of the tiny encoder is watched from outside. Exit code 1 when its memory grows by more than the limit per 1,000
steps after the warm-up, when descriptors or threads grow, when a loss is not finite, or when a step is missing
in `metrics.jsonl` or in TensorBoard's events.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fima.checkpoints.run_folder import RunFolder
from fima.files.jsonl import read_lines
from sample_videos import class_videos
from soak_loader import usage, workers_of

NUM_VIDEOS = 100
STEPS_AN_EPOCH = 20
LIMIT_MB = 4.0
LIMIT_DESCRIPTORS = 10
"""Batches on their way take some; what is measured is how the fewest of a stretch grow."""
FLAGS = (
    "--model.backbone tiny --model.projector-hidden 16 --model.embedding-dim 8 --model.decoder-dim 16 "
    "--method.queue-size 20 --method.cell-queue-size 50 --data.frames 4 --data.crop-size 32 --optim.batch-size 4 "
    "--run.device cpu --run.precision fp32 --run.log-steps 1 --run.checkpoint-epochs 1000000 "
    "--run.checkpoint-minutes 0.1"
)


def watch(
    process: "subprocess.Popen[bytes]", run: RunFolder, every: int, until: int
) -> list[tuple[int, float, int, int]]:
    """Steps, memory in MB, file descriptors and threads of a run and its workers, between steps of the same epoch."""
    measured: list[tuple[int, float, int, int]] = []
    while process.poll() is None:
        lines = run.metrics.read_text().count('"kind": "step"') if run.metrics.exists() else 0
        # Not at the end, when the workers are gone.
        if lines < until and lines - (measured[-1][0] if measured else 0) >= every:
            try:
                now = usage([process.pid, *workers_of(process.pid)], samples=lines)
            except OSError:  # a process has ended meanwhile
                continue
            measured.append((lines, now.total, now.descriptors, now.threads))
            print(
                f"{lines:6,} steps {now.total:8.1f} MB {now.descriptors:4} descriptors {now.threads:4} threads",
                flush=True,
            )
        time.sleep(0.2)
    return measured


def steps_in_events(run: RunFolder) -> list[int]:
    """Steps of the loss in TensorBoard's events."""
    events = EventAccumulator(str(run.root), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars("step/loss")]


def main() -> int:
    """Print a line every so many steps, and the slope; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=400, help="steps before the measurement begins")
    parser.add_argument("--every", type=int, default=100, help="steps between two measurements")
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help="growth per 1,000 steps")
    arguments = parser.parse_args()
    epochs = -(-arguments.steps // STEPS_AN_EPOCH)
    with tempfile.TemporaryDirectory() as name:
        videos, run = class_videos(Path(name) / "videos", NUM_VIDEOS), RunFolder(Path(name) / "run")
        words = [sys.executable, "-m", "fima", "pretrain", str(videos), "--out", str(run.root), *FLAGS.split()]
        words += ["--optim.epochs", str(epochs), "--data.workers", str(arguments.workers), "--run.health-epochs", "0"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            measured = watch(process, run, arguments.every, (epochs - 1) * STEPS_AN_EPOCH)
        finally:
            process.kill()
            process.wait()
        lines = [line for line in read_lines(run.metrics) if line["kind"] == "step"]
        expected = list(range(1, epochs * STEPS_AN_EPOCH + 1))
        complete = [line["step"] for line in lines] == expected == steps_in_events(run)
        finite = all(line["loss"] is not None and math.isfinite(line["loss"]) for line in lines)
    steady = np.array([row for row in measured if row[0] >= arguments.warm_up])
    slope = 1000 * np.polyfit(steady[:, 0], steady[:, 1], 1)[0]
    half = len(steady) // 2
    growth = [int(column[half:].min() - column[:half].min()) for column in steady[:, 2:].T]
    print(f"after {arguments.warm_up} steps: {slope:+.2f} MB per 1,000 steps, ", end="")
    print(f"{growth[0]:+d} descriptors, {growth[1]:+d} threads; records complete: {complete}; losses finite: {finite}")
    grows = slope > arguments.limit_mb or growth[0] > LIMIT_DESCRIPTORS or growth[1] > 0
    return int(process.returncode != 0 or grows or not (complete and finite))


if __name__ == "__main__":
    sys.exit(main())
