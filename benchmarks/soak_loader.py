"""Whether the pre-training loader holds its memory, file descriptors and threads over many samples.

Small videos of several kinds, one of them damaged, are read by worker processes epoch after epoch. Exit code 1 when the
resident memory of all processes grows by more than the limit per 1,000 samples after the warm-up, or descriptors or
threads grow at all. It is measured between epochs, when no batch is on its way: those lie in shared memory.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fima.config import DataConfig
from fima.data.datasets import list_videos
from fima.data.loader import build_pretrain_loader
from fima.synthetic.textured import encode, textured_frames

NUM_VIDEOS = 200
BATCH_SIZE = 20
SAMPLES_A_LINE = 1000
LIMIT_MB = 0.1
KINDS = ("RssAnon", "RssFile", "RssShmem")


def make_videos(folder: Path) -> None:
    """Small videos: H.264 with B-frames, MPEG-4, and one that ends in the middle."""
    for number in range(NUM_VIDEOS):
        frames = textured_frames(24 + number % 40, 48, 64, seed=number)
        if number % 2:
            encode(folder / f"{number:03d}.mp4", frames, "libx264", {"g": "12", "bf": "2", "preset": "veryfast"})
        else:
            encode(folder / f"{number:03d}.avi", frames, "mpeg4", {"g": "250"})
    damaged = folder / "000.avi"
    damaged.write_bytes(damaged.read_bytes()[:4000])


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What some processes take together."""

    samples: int
    """Samples that were read before."""
    memory: dict[str, float]
    """Resident memory in MB, by kind; pages that processes share count in each."""
    descriptors: int
    """File descriptors."""
    threads: int
    """Threads."""

    @property
    def total(self) -> float:
        """Resident memory in MB."""
        return sum(self.memory.values())


def usage(processes: list[int], samples: int) -> Usage:
    """Ask the system about some processes."""
    folders = [Path(f"/proc/{process}") for process in processes]
    lines = [line.split() for folder in folders for line in (folder / "status").read_text().splitlines()]
    return Usage(
        samples=samples,
        memory={kind: sum(int(line[1]) for line in lines if line[0] == f"{kind}:") / 1024 for kind in KINDS},
        descriptors=sum(len(list((folder / "fd").iterdir())) for folder in folders),
        threads=sum(len(list((folder / "task").iterdir())) for folder in folders),
    )


def workers_of(process: int) -> list[int]:
    """The child processes of a process."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return sorted(int(child) for task in tasks for child in (task / "children").read_text().split())


def main() -> int:
    """Print a line every 1,000 samples, and the slope; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=5_000, help="samples before the measurement begins")
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help="growth of all processes per 1,000 samples")
    arguments = parser.parse_args()
    measured: list[Usage] = []
    with tempfile.TemporaryDirectory() as name:
        make_videos(Path(name))
        data = DataConfig(frames=4, crop_size=32, workers=arguments.workers, max_skipped_share=1.0)
        loader = build_pretrain_loader(list_videos(Path(name), "all"), data, batch_size=BATCH_SIZE, seed=0)
        begin = time.monotonic()
        for epoch in range(arguments.samples // NUM_VIDEOS):
            loader.set_epoch(epoch)
            samples = epoch * NUM_VIDEOS + sum(len(batch.paths) for batch in loader)
            if samples % SAMPLES_A_LINE == 0:
                own = os.getpid()
                measured.append(usage([own, *workers_of(own)], samples))
                print(_line(measured[-1], samples / (time.monotonic() - begin)), flush=True)
    steady = [row for row in measured if row.samples >= arguments.warm_up]
    slope = 1000 * np.polyfit([row.samples for row in steady], [row.total for row in steady], 1)[0]
    growth = [
        max(getattr(row, what) - getattr(steady[0], what) for row in steady) for what in ("descriptors", "threads")
    ]
    print(f"after {arguments.warm_up:,} samples: {slope:+.3f} MB per 1,000 samples, ", end="")
    print(f"{growth[0]:+d} descriptors, {growth[1]:+d} threads")
    return int(slope > arguments.limit_mb or any(growth))


def _line(row: Usage, samples_per_second: float) -> str:
    kinds = ", ".join(f"{kind[3:].lower()} {size:.1f}" for kind, size in row.memory.items())
    return (
        f"{row.samples:7,} samples {row.total:8.1f} MB ({kinds}) {row.descriptors:4} descriptors "
        f"{row.threads:4} threads {samples_per_second:6.0f} samples/s"
    )


if __name__ == "__main__":
    sys.exit(main())
