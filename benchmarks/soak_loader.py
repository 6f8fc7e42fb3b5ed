"""Whether the pre-training loader holds its memory, file descriptors and threads over many samples.

Small videos of several kinds, one of them damaged, are read by worker processes epoch after epoch. Exit code 1 when
memory grows by more than the limit per 1,000 samples after the warm-up, or descriptors or threads grow at all.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fima.config import DataConfig
from fima.data.datasets import list_videos
from fima.data.loader import build_pretrain_loader
from sample_videos import encode, textured_frames

NUM_VIDEOS = 40
BATCH_SIZE = 20
LIMIT_MB = 0.25


def make_videos(folder: Path) -> None:
    """Small videos: H.264 with B-frames, MPEG-4, and one that ends in the middle."""
    for number in range(NUM_VIDEOS):
        frames = textured_frames(24 + number, 48, 64, seed=number)
        if number % 2:
            encode(folder / f"{number:02d}.mp4", frames, "libx264", {"g": "12", "bf": "2", "preset": "veryfast"})
        else:
            encode(folder / f"{number:02d}.avi", frames, "mpeg4", {"g": "250"})
    damaged = folder / "00.avi"
    damaged.write_bytes(damaged.read_bytes()[:4000])


def usage(processes: list[int]) -> tuple[float, float, int, int]:
    """Memory of their own and shared memory in MB, file descriptors and threads of some processes together.

    Memory is counted by the proportional set size. Batches on their way lie in shared memory: it goes up and down.
    """
    own = shared = 0.0
    descriptors = threads = 0
    for process in processes:
        folder = Path(f"/proc/{process}")
        sizes = dict(line.split()[:2] for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
        own += int(sizes["Pss_Anon:"]) / 1024
        shared += int(sizes["Pss_Shmem:"]) / 1024
        descriptors += len(list((folder / "fd").iterdir()))
        threads += len(list((folder / "task").iterdir()))
    return own, shared, descriptors, threads


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
    measured: list[tuple[int, float, float, int, int]] = []
    with tempfile.TemporaryDirectory() as name:
        make_videos(Path(name))
        data = DataConfig(frames=4, crop_size=32, workers=arguments.workers, max_skipped_share=1.0)
        loader = build_pretrain_loader(list_videos(Path(name), "all"), data, batch_size=BATCH_SIZE, seed=0)
        done, epoch, begin = 0, 0, time.monotonic()
        while done < arguments.samples:
            loader.set_epoch(epoch)
            for batch in loader:
                done += len(batch.paths)
                if done % 1000 < BATCH_SIZE and (not measured or done - measured[-1][0] >= BATCH_SIZE):
                    own = os.getpid()
                    measured.append((done, *usage([own, *workers_of(own)])))
                    size, shared, descriptors, threads = measured[-1][1:]
                    print(
                        f"{done:7,} samples {size:8.1f} MB, {shared:5.1f} MB shared, {descriptors:4} descriptors",
                        end="",
                    )
                    print(f" {threads:4} threads {done / (time.monotonic() - begin):6.0f} samples/s", flush=True)
            epoch += 1
    steady = np.array([row for row in measured if row[0] >= arguments.warm_up])
    slope = 1000 * np.polyfit(steady[:, 0], steady[:, 1], 1)[0]
    growth = [int(column.max() - column[0]) for column in steady[:, 3:].T]
    print(f"after {arguments.warm_up:,} samples: {slope:+.3f} MB per 1,000 samples, ", end="")
    print(f"{growth[0]:+d} descriptors, {growth[1]:+d} threads")
    return int(slope > arguments.limit_mb or any(growth))


if __name__ == "__main__":
    sys.exit(main())
