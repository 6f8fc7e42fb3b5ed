"""How many videos a second are decoded and cropped: of one like UCF101's, made on the spot."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from fima.config import DataConfig
from fima.data.datasets import Video, VideoList
from fima.data.loader import PretrainDataset, build_pretrain_loader
from fima.data.workers.killable_pool import available_cores
from fima.synthetic.textured import encode, textured_frames

NUM_FRAMES, HEIGHT, WIDTH = 180, 240, 320
ENCODER = "libx264"
KEY_FRAME_EVERY = "12"
BATCH_SIZE = 8
NUM_VIDEOS = 100_000
"""Entries of the list, all of them the same file: more than are read."""


@dataclass(frozen=True, kw_only=True)
class DecodeFigures:
    """Videos a second, two clips of each."""

    per_core: float
    """Of one process, with one thread."""
    all_cores: float
    """Of the loader, with a process for each core."""
    cores: int


def measure_decoding(data: DataConfig, seconds: float) -> DecodeFigures:
    """Draw pre-training samples for about so many seconds, half of them in one process. Raises what PyAV raises."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "video.mp4")
        frames = textured_frames(NUM_FRAMES, HEIGHT, WIDTH)
        encode(path, frames, ENCODER, {"crf": "23", "g": KEY_FRAME_EVERY, "preset": "veryfast"})
        entries = [Video(path, None)] * NUM_VIDEOS
        videos = VideoList(videos=entries, classes=[], root=path.parent, split="all", layout="one video")
        dataset = PretrainDataset(videos, replace(data, workers=0), seed=0)
        dataset[0, 0]
        begin, number = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds / 2:
            number += 1
            dataset[0, number]
        alone = number / (time.perf_counter() - begin)
        cores = available_cores()
        loader = build_pretrain_loader(videos, replace(data, workers=cores), batch_size=BATCH_SIZE, seed=0)
        batches = iter(loader)
        # Until every process has begun and the first batches wait, the rate says little.
        for _ in range(2 * cores):
            next(batches)
        begin, number = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds / 2:
            next(batches)
            number += BATCH_SIZE
        together = number / (time.perf_counter() - begin)
        del batches, loader
    return DecodeFigures(per_core=alone, all_cores=together, cores=cores)
