"""Memory that reading a whole video takes, by its length: a minute that is repeated, each length in a fresh process."""

import argparse
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import av
from av.packet import Packet

from fima.data.decode.video import VideoReader
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
    num_frames, peak_kb = ours.recv()
    process.join()
    return num_frames, peak_kb / 1024


def _read_all(path: Path, answer: Connection) -> None:
    with VideoReader(path) as reader:
        num_frames = sum(1 for _ in reader.stream())
    # Not the system's `ru_maxrss`, which begins with what the parent process had.
    lines = Path("/proc/self/status").read_text().splitlines()
    answer.send((num_frames, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))))


def main() -> None:
    """Print a row a length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 10, 60])
    parser.add_argument("--height", type=int, default=120)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
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
