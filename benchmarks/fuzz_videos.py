"""Whether damaged and hostile videos stop anything: training, the index, the doctor or the features.

Videos of several kinds are changed at random: bits flipped, ends cut off, headers put before other contents, numbers of
the header made huge, parts overwritten, repeated or left out. Exit code 1 when a part of the program dies or hangs,
when a process takes more memory than the limit, or when a video is neither used nor named with a reason.
"""

import argparse
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fima.config import DataConfig
from fima.data.datasets import list_videos
from fima.data.eval_clips import ClipSettings
from fima.data.loader import build_pretrain_loader
from fima.evaluate.extract import Resources, VideoRows, extract_rows
from fima.synthetic.textured import encode, textured_frames

KINDS = (
    ("mp4", "libx264", {"g": "12", "bf": "2", "preset": "veryfast"}),
    ("mov", "libx264", {"g": "12", "bf": "0", "preset": "veryfast"}),
    ("avi", "mpeg4", {"g": "250"}),
    ("mkv", "libx264", {"g": "6", "preset": "veryfast"}),
    ("ts", "mpeg2video", {"g": "12"}),
    ("webm", "libvpx", {"deadline": "realtime"}),
)
HEADER_BYTES = 600
LIMIT_MB = 3000


def flip_bits(content: bytearray, others: list[bytes], chance: random.Random) -> bytes:
    """A few bits anywhere."""
    for _ in range(chance.choice((1, 4, 40))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def truncate(content: bytearray, others: list[bytes], chance: random.Random) -> bytes:
    """A beginning."""
    return bytes(content[: chance.randrange(1, len(content))])


def splice(content: bytearray, others: list[bytes], chance: random.Random) -> bytes:
    """The header of another video."""
    other = chance.choice(others)
    length = chance.randrange(16, HEADER_BYTES)
    return other[:length] + bytes(content[length:])


def huge_numbers(content: bytearray, others: list[bytes], chance: random.Random) -> bytes:
    """Sizes, counts and durations of the header, or of the index at the end, made huge."""
    at_end = chance.random() < 0.5
    for _ in range(chance.choice((1, 2, 8))):
        place = chance.randrange(min(len(content) - 4, HEADER_BYTES * 2))
        place = len(content) - 4 - place if at_end else place
        value = chance.choice((0xFFFFFFFF, 0x7FFFFFFF, 0x7FFF0000, 0xFFFF, 0x80000000))
        content[place : place + 4] = struct.pack(chance.choice("<>") + "I", value)
    return bytes(content)


def overwrite(content: bytearray, others: list[bytes], chance: random.Random) -> bytes:
    """Noise, or zeros, over a part."""
    length = chance.randrange(1, max(2, len(content) // 3))
    place = chance.randrange(len(content) - length)
    content[place : place + length] = chance.choice((bytes(length), chance.randbytes(length)))
    return bytes(content)


def repeat(content: bytearray, others: list[bytes], chance: random.Random) -> bytes:
    """A part twice, or not at all."""
    start, stop = sorted(chance.sample(range(len(content)), 2))
    return bytes(content[:stop] + content[start:] if chance.random() < 0.5 else content[:start] + content[stop:])


MUTATIONS: tuple[Callable[[bytearray, list[bytes], random.Random], bytes], ...] = (
    flip_bits, truncate, splice, huge_numbers, overwrite, repeat,
)  # fmt: skip


def write_mutants(folder: Path, number: int, seed: int) -> None:
    """Write so many changed videos, and as many healthy ones, which replace the others in training."""
    chance = random.Random(seed)
    originals: list[tuple[str, bytes]] = []
    for position, (suffix, codec, options) in enumerate(KINDS):
        path = folder / f"original.{suffix}"
        encode(path, textured_frames(20, 48, 64, seed=position), codec, options)
        originals.append((suffix, path.read_bytes()))
        path.unlink()
    contents = [content for _, content in originals]
    for index in range(number):
        suffix, content = chance.choice(originals)
        (folder / f"{index:05d}_healthy.{suffix}").write_bytes(content)
        mutate = MUTATIONS[index % len(MUTATIONS)]
        (folder / f"{index:05d}_{mutate.__name__}.{suffix}").write_bytes(mutate(bytearray(content), contents, chance))


def train_over(folder: Path, workers: int) -> list[str]:
    """Load an epoch of training; return the videos that are neither used nor named with a reason."""
    data = DataConfig(frames=4, crop_size=16, workers=workers, timeout_seconds=60, max_clip_mb=256)
    videos = list_videos(folder, "all")
    used: set[str] = set()
    named: set[str] = set()
    for batch in build_pretrain_loader(videos, data, batch_size=20, seed=0):
        used.update(batch.paths)
        named.update(skip.path for skip in batch.skipped if skip.reason)
    print(f"training: {len(videos.videos)} videos, {len(named)} named as unusable", flush=True)
    return [str(video.path) for video in videos.videos if str(video.path) not in used | named]


def embed(folder: Path, workers: int) -> list[str]:
    """Load evaluation clips of every video; return those that are neither there nor named with a reason."""
    videos = list_videos(folder, "all")
    paths, settings = [video.path for video in videos.videos], ClipSettings(frames=4, crop_size=16, num_clips=2)
    found = extract_rows(paths, lambda clips: clips.flatten(1), settings, Resources(batch_size=40, workers=workers))
    places = {item.index for item in found if isinstance(item, VideoRows) or item.reason}
    print(f"features: {len(places)} videos used or named", flush=True)
    return [str(video.path) for place, video in enumerate(videos.videos) if place not in places]


def main() -> int:
    """Print a line a part, and what went wrong; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help="memory of a process")
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "videos"
        folder.mkdir()
        write_mutants(folder, arguments.videos, arguments.seed)
        missing = train_over(folder, arguments.workers) + embed(folder, arguments.workers)
        # The doctor indexes and decodes every video in processes that may crash.
        words = [sys.executable, "-m", "fima", "doctor", str(folder), "--deep", "--workers", str(arguments.workers)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(Path(name) / "cache")}
        outcome = subprocess.run([*words, "--timeout", "60"], capture_output=True, text=True, env=environment)
        healthy = outcome.returncode in (0, 1) and "Traceback" not in outcome.stderr
        print(f"doctor: exit code {outcome.returncode}" + ("" if healthy else f"\n{outcome.stderr}"), flush=True)
    # Not `ru_maxrss` of this process, which counts the memory of the one that started it.
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sizes = [int(own.split()[1]) / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]
    seconds = time.monotonic() - begin
    print(f"largest process: {max(sizes):.0f} MB; {seconds:.0f} s; not accounted for: {missing or 'none'}")
    return int(bool(missing) or not healthy or max(sizes) > arguments.limit_mb)


if __name__ == "__main__":
    sys.exit(main())
