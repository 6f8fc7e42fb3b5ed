"""How fast headers are read, against reading every frame's timestamp; and what examining 240,000 rows takes.

The old way is that of the video readers that index by timestamps: decoding every frame, or, where the encoder is known
to write them, reading every packet. Both are measured on the same files, in turn with the header, in CPU time; each
way reads a file several times in a row, since the videos of a folder are of one kind as a rule.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from statistics import median

import av

from fima.data.datasets import VideoList
from fima.data.decode.header import VideoHeader, read_header
from fima.library.doctor import diagnose
from fima.library.index import COLUMNS, open_index
from sample_videos import sample_videos

READS_IN_A_ROW = 5


def decoded_timestamps(path: Path) -> int:
    """Number of frames, by the timestamp of each decoded frame."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return len([frame.pts for frame in container.decode(video=0)])


def packet_timestamps(path: Path) -> int:
    """Number of frames, by the timestamp of each packet."""
    with av.open(str(path)) as container:
        return len([packet.pts for packet in container.demux(video=0) if packet.pts is not None])


def header_frames(path: Path) -> int:
    """Number of frames, by the header."""
    return read_header(path).num_frames


def speed(paths: list[Path], repeats: int) -> None:
    """Print a row a file: milliseconds of each way, medians, and how much faster the header is."""
    ways: tuple[Callable[[Path], int], ...] = (header_frames, packet_timestamps, decoded_timestamps)
    total = [0.0, 0.0, 0.0]
    print(f"{'ms per file':<26}{'header':>9}{'packets':>10}{'decoding':>10}{'packets':>12}{'decoding':>10}")
    for path in paths:
        times: list[list[float]] = [[] for _ in ways]
        for _ in range(repeats):
            for way, spent in zip(ways, times, strict=True):
                begin = time.process_time()
                for _ in range(READS_IN_A_ROW):
                    way(path)
                spent.append(1e3 * (time.process_time() - begin) / READS_IN_A_ROW)
        header, packets, decoding = (median(spent) for spent in times)
        total = [before + now for before, now in zip(total, (header, packets, decoding), strict=True)]
        print(f"{path.name:<26}{header:9.2f}{packets:10.2f}{decoding:10.1f}", end="")
        print(f"{packets / header:10.1f} x{decoding / header:8.1f} x", flush=True)
    header, packets, decoding = total
    print(f"{'all':<26}{1e3 * len(paths) / header:7.0f} files/s per core", end="")
    print(f"{packets / header:16.1f} x{decoding / header:8.1f} x")


def whole(folder: Path, paths: list[Path], copies: int, workers: int) -> None:
    """Index links to the files, first all of them, then after a change of one."""
    root = folder / "tree"
    links = [root / f"{copy:05d}" / path.name for copy in range(copies) for path in paths]
    for link, path in zip(links, paths * copies, strict=True):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    for what in ("new", "unchanged"):
        begin = time.perf_counter()
        with open_index(root, folder / "index.sqlite") as index:
            index.update(links, workers=workers)
        seconds = time.perf_counter() - begin
        print(f"index of {len(links):,} files, {what}: {seconds:.2f} s with {workers} processes")


def rows(folder: Path, num_videos: int) -> None:
    """Time that the doctor's figures of so many videos take, from an index that is written already."""
    file = folder / "rows.sqlite"
    header = VideoHeader(
        num_frames=300,
        fps=30.0,
        width=340,
        height=256,
        pixel_aspect=1.0,
        duration_seconds=10.0,
        codec="h264",
        pixel_format="yuv420p",
    )
    values = (0, None, None, *astuple(header))
    content = (
        (f"train_256/some class name/{number:011d}_000010_000020.mp4", number, *values) for number in range(num_videos)
    )
    with open_index(folder, file) as index, index.database:
        index.database.execute("BEGIN")
        index.database.executemany(f"INSERT INTO videos VALUES ({', '.join('?' * len(COLUMNS))})", content)
    nothing = VideoList(videos=[], classes=[], root=folder, split="all", layout="rows")
    begin = time.process_time()
    with open_index(folder, file) as index:
        diagnose(nothing, index, decoded=False)
    seconds = time.process_time() - begin
    size = file.stat().st_size / 1e6
    print(f"{num_videos:,} rows: {size:.0f} MB on disk, examined in {seconds:.2f} s of CPU time")


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to measure on, besides two made ones")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=100, help="links to each file in the index of a folder")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=int, default=240_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths = sample_videos(Path(name), arguments.videos)
        speed(paths, arguments.repeats)
        whole(Path(name), paths, arguments.copies, arguments.workers)
        rows(Path(name), arguments.rows)


if __name__ == "__main__":
    main()
