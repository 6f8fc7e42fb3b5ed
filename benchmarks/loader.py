"""Where the time of the pre-training loader goes, per video and core, and which share of it is the floor.

One process, one thread. The floor is decoding the same packets and converting the same frames; what lies above it is
opening, cropping, scaling and collating. CPU time is measured, and the stages of a video follow one another directly.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from fima.config import DataConfig
from fima.data.clips import ClipTiming, window_starts
from fima.data.datasets import Video, VideoList
from fima.data.decode.video import VideoReader
from fima.data.loader import PretrainBatch, PretrainDataset
from fima.data.views import sample_views
from fima.data.workers.batches import joined
from sample_videos import sample_videos

STAGES = ("open", "seek", "decode", "convert", "crop", "collate")


def measure(path: Path, data: DataConfig, num_samples: int, batch_size: int) -> dict[str, float]:
    """Milliseconds of CPU time per sample in each stage, means over random samples of one video.

    `seek` is decoding the frames between the key frame and the first wanted frame.
    """
    spent: dict[str, float] = defaultdict(float)
    clock = time.process_time
    videos = VideoList(videos=[Video(path, None)], classes=[], root=path.parent, split="all", layout="one video")
    dataset = PretrainDataset(videos, data, seed=0)
    samples: list[PretrainBatch] = []
    for number in range(num_samples):
        generator = np.random.default_rng(number)
        begin = clock()
        with VideoReader(path) as reader:
            spent["open"] += clock() - begin
            window = ClipTiming().window(reader, data.frames)
            starts = window_starts(reader.num_frames, window.length, generator)
            wanted = [frame for start in starts for frame in window.indices(start)]
            seek, decode = _decoding(reader, sorted(set(wanted)))
            begin = clock()
            frames = reader.read(wanted)
            spent["seek"] += seek
            spent["decode"] += decode
            spent["convert"] += clock() - begin - seek - decode
        begin = clock()
        for clip in (frames[: 2 * data.frames], frames[2 * data.frames :]):
            sample_views(clip, data, generator)
        spent["crop"] += clock() - begin
        begin = clock()
        samples.append(dataset[number, 0])
        spent["whole"] += clock() - begin
        if len(samples) == batch_size:
            begin = clock()
            joined(samples)
            spent["collate"] += clock() - begin
            samples.clear()
    return {stage: 1e3 * seconds / num_samples for stage, seconds in spent.items()}


def _decoding(reader: VideoReader, wanted: list[int]) -> tuple[float, float]:
    """Seconds until the first frame of each window, and for the frames that follow it."""
    seek = decode = 0.0
    last = -2
    begin = time.process_time()
    for index, _ in reader.decode(wanted):
        now = time.process_time()
        if index == last + 1:
            decode += now - begin
        else:
            seek += now - begin
        begin, last = now, index
    return seek, decode


def main() -> None:
    """Print a row a video."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to measure on, besides two made ones")
    parser.add_argument("--samples", type=int, default=16, help="random samples (two clips each) of each video")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=DataConfig().frames)
    parser.add_argument("--crop-size", type=int, default=DataConfig().crop_size)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DataConfig(frames=arguments.frames, crop_size=arguments.crop_size, workers=0)
    columns = "".join(f"{stage:>9}" for stage in (*STAGES, "whole"))
    print(f"{'ms per video (two clips)':<26}{columns}  videos/s  floor")
    with tempfile.TemporaryDirectory() as name:
        for path in sample_videos(Path(name), arguments.videos):
            spent = measure(path, data, arguments.samples, min(arguments.batch_size, arguments.samples))
            whole = spent["whole"] + spent["collate"]
            floor = spent["seek"] + spent["decode"] + spent["convert"]
            times = "".join(f"{spent[stage]:9.2f}" for stage in STAGES)
            print(f"{path.name:<26}{times}{whole:9.2f}{1e3 / whole:10.1f}{100 * floor / whole:6.0f} %", flush=True)


if __name__ == "__main__":
    main()
