"""How fast headers are read, against reading every frame's timestamp; and what 240,000 rows take to load and hold.

The old way is that of the video readers that index by timestamps: decoding every frame, or, where the encoder is known
to write them, reading every packet. Both are measured on the same files, in turn with the header, in CPU time; each
way reads a file several times in a row, since the videos of a folder are of one kind as a rule.
"""

import argparse
import multiprocessing
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import av

from fima.data.decode.header import read_header
from fima.library.index import VideoIndex, index_videos, load_index
from fima.library.index_file import COLUMNS, open_index_file
from sample_videos import sample_videos

WORKERS = 16
ROWS_READ = 20_000
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
        index_videos(root, links, file=folder / "index.sqlite", workers=workers)
        seconds = time.perf_counter() - begin
        print(f"index of {len(links):,} files, {what}: {seconds:.2f} s with {workers} processes")


def rows(folder: Path, num_videos: int) -> None:
    """Load an index of so many rows, and measure what 16 forked processes that read it take together."""
    file = folder / "rows.sqlite"
    with closing(open_index_file(file)) as database:
        _fill(database, num_videos)
    times: list[tuple[float, float]] = []
    for _ in range(3):
        begin = time.perf_counter(), time.process_time()
        index = load_index(folder, file)
        times.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    seconds, cpu_seconds = min(times)
    print(f"{num_videos:,} rows: {file.stat().st_size / 1e6:.0f} MB on disk, loaded in {seconds:.2f} s ", end="")
    print(f"({cpu_seconds:.2f} s of CPU time), {index.nbytes / 1e6:.1f} MB of arrays")
    del index
    without, held = _in_fresh_process(folder, None), _in_fresh_process(folder, file)
    print(
        f"{WORKERS} forked workers that read rows, and their parent: {held - without:.1f} MB more than without the ",
        end="",
    )
    print(f"index (proportional set size: {held:.0f} and {without:.0f} MB)")


def _fill(database: sqlite3.Connection, num_videos: int) -> None:
    values = (0, 0, None, None, 300, 0, 30.0, 340, 256, 10.0, "h264", "yuv420p", 0, 0)
    content = ((f"train_256/some class name/{number:011d}_000010_000020.mp4", *values) for number in range(num_videos))
    with database:
        database.execute("BEGIN")
        database.executemany(f"INSERT INTO videos VALUES ({', '.join('?' * len(COLUMNS))})", content)


def _in_fresh_process(folder: Path, file: Path | None) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_fork_workers, args=(folder, file, theirs))
    process.start()
    answer: float = ours.recv()
    process.join()
    return answer


def _fork_workers(folder: Path, file: Path | None, answer: Connection) -> None:
    """Send the proportional set size in MB of this process and its workers while all of them live."""
    index = load_index(folder, file) if file is not None else None
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(WORKERS)]
    processes = [context.Process(target=_read_rows, args=(index, theirs)) for _, theirs in pipes]
    for process in processes:
        process.start()
    for ours, _ in pipes:
        ours.recv()
    total = _proportional_bytes()
    for ours, _ in pipes:
        ours.send("measure")
        total += ours.recv()
    for ours, _ in pipes:
        ours.send("leave")
    for process in processes:
        process.join()
    answer.send(total / 1e6)


def _read_rows(index: VideoIndex | None, pipe: Connection) -> None:
    if index is not None:
        for place in range(0, len(index), max(1, len(index) // ROWS_READ)):
            assert index.paths[place]
            assert index.num_frames[place]
    pipe.send("ready")
    pipe.recv()
    pipe.send(_proportional_bytes())
    pipe.recv()


def _proportional_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


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
