"""Memory that long videos take: of a process that reads one, and of an epoch with `--data.windows-per-video auto`.

By default a minute is repeated, and each length read in a fresh process. With `--hours N`, a recording of N hours
(small frames, one a second, a key frame every minute) and 20 videos of 20 seconds are loaded for one epoch: how much of
the recording the epoch has seen, and the resident memory on the way.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet

from fima.config import DataConfig
from fima.data.decode.video import VideoReader
from fima.data.loader import build_pretrain_loader
from fima.data.training_sets import TrainingSet
from fima.library.windows import videos_of_epoch
from fima.synthetic.textured import FPS, encode, textured_frames

MINUTE_SECONDS = 60


def repeated(path: Path, minute: Path, times: int) -> Path:
    """Write the packets of an MP4 several times over, one after another."""
    with av.open(str(minute)) as source, av.open(str(path), "w") as target:
        template = source.streams.video[0]
        stream = target.add_stream_from_template(template)
        packets = [packet for packet in source.demux(template) if packet.size]
        assert template.time_base is not None
        length = round(MINUTE_SECONDS / template.time_base)
        for turn in range(times):
            for packet in packets:
                copy = Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, template.time_base, packet.is_keyframe
                assert packet.pts is not None
                assert packet.dts is not None
                copy.pts, copy.dts = packet.pts + turn * length, packet.dts + turn * length
                target.mux(copy)
    return path


def peak_mb(path: Path) -> tuple[int, float]:
    """Frames of a video, and the most resident memory in MB of a fresh process that reads all of them."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_read_all, args=(path, theirs))
    process.start()
    num_frames, peak = ours.recv()
    process.join()
    return num_frames, peak


def _read_all(path: Path, answer: Connection) -> None:
    with VideoReader(path) as reader:
        num_frames = sum(1 for _ in reader.stream())
    answer.send((num_frames, status_mb("VmHWM")))


def epoch(folder: Path, hours: int) -> None:
    """Load an epoch of a recording and 20 short videos, and print what it has seen and taken."""
    pixels = textured_frames(MINUTE_SECONDS, 24, 32)
    options = {"preset": "veryfast", "g": "60", "bf": "0"}
    minute = encode(folder / "minute.mp4", pixels, "libx264", options, fps=1)
    videos = folder / "videos"
    videos.mkdir()
    repeated(videos / "recording.mp4", minute, 60 * hours)
    for number in range(20):
        encode(videos / f"short{number}.mp4", pixels[:20], "libx264", options, fps=1)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    data = DataConfig(part="all", frames=2, stride=1.0, crop_size=16, workers=0, windows_per_video="auto")
    listed = videos_of_epoch([TrainingSet(root=videos)], data)
    loader = build_pretrain_loader(listed, data, batch_size=16, seed=0)
    seen: set[int] = set()
    read = VideoReader.read

    def noted(reader: VideoReader, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        if reader.path.stem == "recording":
            seen.update(indices)
        return read(reader, indices)

    VideoReader.read = noted  # type: ignore[method-assign,assignment]
    windows, clips = listed.epoch.windows, 0
    print(f"{listed.epoch.num_samples} samples an epoch, {windows.max()} of them of the recording of {hours} hours")
    for step, batch in enumerate(loader, start=1):
        clips += sum(path.endswith("recording.mp4") for path in batch.paths)
        if step in {1, *(len(loader) * quarter // 4 for quarter in range(1, 5))}:
            print(f"step {step:4} of {len(loader)}: {status_mb('VmRSS'):6.1f} MB resident", flush=True)
    pieces = {frame // 10 for frame in seen}
    print(f"{clips} pairs of clips; frames of {len(pieces)} of its {6 * 60 * hours} stretches of ten seconds were seen")


def status_mb(name: str) -> float:
    """A figure of this process's memory, in MB: not the system's `ru_maxrss`, which begins with what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def main() -> None:
    """Print a row a length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 10, 60])
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--hours", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.hours:
            epoch(Path(name), arguments.hours)
            return
        frames = textured_frames(MINUTE_SECONDS * FPS, arguments.height, arguments.height * 4 // 3)
        minute = encode(Path(name, "minute.mp4"), frames, "libx264", {"preset": "veryfast", "g": "50", "bf": "2"})
        del frames
        for minutes in arguments.minutes:
            path = repeated(Path(name, "long.mp4"), minute, minutes)
            num_frames, peak = peak_mb(path)
            size = path.stat().st_size / 2**20
            print(
                f"{minutes:3} min, {num_frames:6,} frames, {size:6.1f} MB of file: {peak:6.1f} MB at most", flush=True
            )


if __name__ == "__main__":
    main()
