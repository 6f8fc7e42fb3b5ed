"""Whether a run that is killed again and again ends exactly as one that is not.

A small run is ended at random moments, by SIGKILL, SIGTERM, SIGINT and SIGUSR1 in turn, and started again with
`--auto-resume`, each time with another number of worker processes. Exit code 1 when its last checkpoint differs from
that of an undisturbed run in any bit of weights, queues or momenta, or when a line of the metrics is
missing, doubled or says something else than its time.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fima.checkpoints.checkpoint import read_content
from fima.checkpoints.run_folder import RunFolder
from fima.files.atomic import TEMPORARY_FILES
from sample_videos import class_videos

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1)
TIMES = ("seconds", "videos_per_second", "data_wait_share")
SMALL = (
    "--data.frames 4 --data.crop-size 32 --optim.batch-size 4 --run.device cpu --run.precision fp32 --run.log-steps 1"
)
OFTEN = "--run.checkpoint-minutes 0.002 --run.checkpoint-epochs 1"
COMMANDS = {
    "pretrain": "--model.backbone tiny --method.queue-size 6 --method.cell-queue-size 20 --model.decoder-dim 16 "
    "--model.projector-hidden 16 --model.embedding-dim 8 --run.health-epochs 1",
    "finetune": "--classifier.backbone tiny --optim.milestones 1 --data.blur 0 --test.clips 2 --test.every-epochs 1 "
    "--test.ori-resolution 40 --classifier.select validation --classifier.held-out-share 0.25",
    "linear": "--classifier.backbone tiny --classifier.freeze --optim.milestones 1 --data.blur 0 --test.clips 2 "
    "--test.every-epochs 1 --test.ori-resolution 40",
}


def command(kind: str, videos: Path, out: Path, epochs: int, workers: int) -> list[str]:
    """The command line of one start of the run."""
    words = [kind, str(videos)] if kind == "pretrain" else ["finetune", "scratch", str(videos)]
    flags = f"{COMMANDS[kind]} {SMALL} {OFTEN} --optim.epochs {epochs} --data.workers {workers} --auto-resume"
    return [sys.executable, "-m", "fima", *words, "--out", str(out), *flags.split()]


def steps_done(run: RunFolder) -> int:
    """Lines of steps in the metrics."""
    return run.metrics.read_text().count('"kind": "step"') if run.metrics.exists() else 0


def kill_once(words: list[str], run: RunFolder, number: signal.Signals, chance: random.Random) -> int | None:
    """Start the run, end it a random time after it has begun to train, or earlier; return its exit code if it ended."""
    before = steps_done(run)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if chance.random() < 0.8:
            while steps_done(run) <= before and process.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.6))
        else:
            time.sleep(chance.uniform(0, 6))
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(timeout=600)
    finally:
        process.kill()


def records(run: RunFolder) -> list[dict[str, Any]]:
    """Lines of the metrics without their times, in the order of kinds, epochs and steps."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    plain = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return sorted(plain, key=lambda line: (line["kind"], line["epoch"], line["step"]))


def differences(first: object, second: object, name: str = "") -> list[str]:
    """Names of the values that are not the same bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.shape == second.shape and first.dtype == second.dtype
        same = same and first.contiguous().view(-1).view(torch.uint8).equal(
            second.contiguous().view(-1).view(torch.uint8)
        )
        return [] if same else [name]
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [f"{name} (keys)"]
        return [found for key in first for found in differences(first[key], second[key], f"{name}.{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = zip(first, second, strict=True)
        return [found for i, (one, two) in enumerate(pairs) for found in differences(one, two, f"{name}[{i}]")]
    return [] if first == second else [name]


def compare(killed: RunFolder, whole: RunFolder) -> list[str]:
    """What the two runs do not have in common."""
    found = []
    names = sorted(path.name for path in whole.checkpoint_folder.glob("*.pt") if not path.name.startswith("last-"))
    for name in names:
        one, two = (read_content(folder.checkpoint_folder / name) for folder in (killed, whole))
        parts = ("model", "optimizer", "progress", "selection")
        for part in parts:
            found += differences(one.get(part), two.get(part), f"{name}: {part}")
    if records(killed) != records(whole):
        found.append("metrics.jsonl")
    return found


def main() -> int:
    """Print a line a kill, and what differs; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kind", choices=list(COMMANDS), default="pretrain")
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=0, help="0: as many as the kills need")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chance = random.Random(arguments.seed)
    epochs = arguments.epochs or max(2, arguments.kills)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = class_videos(folder / "videos", arguments.videos)
        whole, killed = RunFolder(folder / "whole"), RunFolder(folder / "killed")
        subprocess.run(command(arguments.kind, videos, whole.root, epochs, 0), check=True, stdout=subprocess.DEVNULL)
        print(f"undisturbed: {steps_done(whole)} steps", flush=True)
        done = 0
        while done < arguments.kills:
            number = SIGNALS[done % len(SIGNALS)]
            words = command(arguments.kind, videos, killed.root, epochs, chance.randrange(3))
            code = kill_once(words, killed, number, chance)
            if code == 0:
                print(f"the run was over after {done} kills; give more --epochs")
                break
            if code not in (-number, 128 + number):
                print(f"exit code {code} after {number.name}")
                return 1
            done += 1
            print(f"{done:3} {number.name:8} exit code {code:4}, {steps_done(killed):5} steps recorded", flush=True)
        subprocess.run(command(arguments.kind, videos, killed.root, epochs, 1), check=True, stdout=subprocess.DEVNULL)
        found = compare(killed, whole)
        shutil.rmtree(folder / "videos")
        leftovers = [str(path) for path in killed.root.rglob(TEMPORARY_FILES)]
        print(
            f"{done} kills; "
            + (f"DIFFERENT: {', '.join(found + leftovers)}" if found + leftovers else "the same, bit for bit")
        )
    return int(bool(found or leftovers or done < arguments.kills))


if __name__ == "__main__":
    sys.exit(main())
