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
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fima.checkpoints.run_folder import RunFolder
from fima.checkpoints.torch_file import read_content
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
CHOICES = (
    ("--optim.name adamw --optim.lr 0.001", "--optim.name lars --optim.lr 0.3 --optim.lr-scaling sqrt", ""),
    ("--optim.weight-decay-end 0.1", ""),
    ("--optim.ema-decay 0.5", ""),
    ("--optim.encoder-lr-scale 0.1", ""),
    ("--optim.accumulate 2", ""),
    ("--method.key-momentum 0.9 --method.key-momentum-end 1", ""),
    ("--model.init-from {source} --optim.freeze-epochs 1", ""),
    ("--data.held-out-share 0.3", ""),
    ("--data.windows-per-video 2 --method.exclude-same-video", ""),
    ("--method.cost light", ""),
)
"""Settings of pre-training of which `--combinations` takes one of each row."""


def combination(chance: random.Random, source: Path) -> str:
    """A random choice of settings that a run must resume with as exactly as with the defaults.

    Args:
        chance: what chooses.
        source: a run of the same backbone, to start from.
    """
    return " ".join(filter(None, map(chance.choice, CHOICES))).format(source=source)


def command(kind: str, settings: str, videos: Path, out: Path, epochs: int, workers: int) -> list[str]:
    """The command line of one start of the run."""
    words = [kind, str(videos)] if kind == "pretrain" else ["finetune", "scratch", str(videos)]
    flags = f"{COMMANDS[kind]} {SMALL} {OFTEN} {settings} --optim.epochs {epochs} --data.workers {workers}"
    return [sys.executable, "-m", "fima", *words, "--out", str(out), *flags.split(), "--auto-resume"]


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
        parts = ("model", "optimizer", "ema", "progress", "selection")
        for part in parts:
            found += differences(one.get(part), two.get(part), f"{name}: {part}")
    if records(killed) != records(whole):
        found.append("metrics.jsonl")
    return found


def is_exact(arguments: argparse.Namespace, settings: str, chance: random.Random) -> bool:
    """Kill a run with these settings again and again; whether it ends as one that is not, in words too."""
    kind, epochs = arguments.kind, arguments.epochs or max(2, arguments.kills)
    print(f"settings: {settings or 'the defaults'}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = class_videos(folder / "videos", arguments.videos)
        whole, killed = RunFolder(folder / "whole"), RunFolder(folder / "killed")
        start = partial(command, kind, settings, videos)
        subprocess.run(start(whole.root, epochs, 0), check=True, stdout=subprocess.DEVNULL)
        print(f"undisturbed: {steps_done(whole)} steps", flush=True)
        done = 0
        while done < arguments.kills:
            number = SIGNALS[done % len(SIGNALS)]
            code = kill_once(start(killed.root, epochs, chance.randrange(3)), killed, number, chance)
            if code == 0:
                print(f"the run was over after {done} kills; give more --epochs")
                break
            if code not in (-number, 128 + number):
                print(f"exit code {code} after {number.name}")
                return False
            done += 1
            print(f"{done:3} {number.name:8} exit code {code:4}, {steps_done(killed):5} steps recorded", flush=True)
        subprocess.run(start(killed.root, epochs, 1), check=True, stdout=subprocess.DEVNULL)
        found = compare(killed, whole) + [str(path) for path in killed.root.rglob(TEMPORARY_FILES)]
        print(f"{done} kills; " + (f"DIFFERENT: {', '.join(found)}" if found else "the same, bit for bit"), flush=True)
    return not found and done == arguments.kills


def main() -> int:
    """Print a line a kill, and what differs; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kind", choices=list(COMMANDS), default="pretrain")
    parser.add_argument("--combinations", type=int, default=0, help="of random settings of pre-training; 0: defaults")
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=0, help="0: as many as the kills need")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chance = random.Random(arguments.seed)
    if not arguments.combinations:
        return int(not is_exact(arguments, "", chance))
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        videos = class_videos(Path(name) / "videos", arguments.videos)
        subprocess.run(command("pretrain", "", videos, source, 1, 0), check=True, stdout=subprocess.DEVNULL)
        tried = [combination(chance, source) for _ in range(arguments.combinations)]
        return int(not all(is_exact(arguments, settings, chance) for settings in tried))


if __name__ == "__main__":
    sys.exit(main())
