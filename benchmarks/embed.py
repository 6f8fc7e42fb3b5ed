"""How fast `fima embed` is against decoding alone: `python benchmarks/embed.py ENCODER VIDEOS --workers 2`.

Beside the time it prints the processor time. On a CPU the encoder and the processes that decode share the cores, and
with all of these busy, the ratio of processor times is as near as embedding can come to decoding alone.
"""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import fima
from fima.data.datasets import list_videos
from fima.evaluate.extract import Resources, extract_rows


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Embed videos with an encoder and with none, in turn, and print videos per second."""

    encoder: tyro.conf.Positional[str]
    """What `fima.load` takes."""
    videos: tyro.conf.Positional[Path]
    """Folder or table of videos."""
    clips: int = 10
    """Clips per video."""
    batch_size: int = 32
    """Clips at a time."""
    workers: int = 2
    """Processes that decode."""
    device: str = "cpu"
    """Where the encoder runs."""
    repeats: int = 3
    """How often each is timed; the best counts."""


def main(arguments: Arguments) -> None:
    """Print both speeds."""
    encoder = fima.load(arguments.encoder, device=arguments.device)
    paths = [video.path for video in list_videos(arguments.videos, "all").videos]
    networks = {"decoding alone": lambda clips: torch.zeros(len(clips), 1), "embedding": encoder.vectors}
    best, work = dict.fromkeys(networks, float("inf")), dict.fromkeys(networks, float("inf"))
    for _ in range(arguments.repeats):
        for name, network in networks.items():
            began, used = time.perf_counter(), processor_seconds()
            rows = extract_rows(
                paths,
                network,
                encoder.clip_settings(clips=arguments.clips),
                Resources(device=encoder.device, batch_size=arguments.batch_size, workers=arguments.workers),
            )
            num_videos = sum(1 for _ in rows)
            best[name] = min(best[name], time.perf_counter() - began)
            work[name] = min(work[name], processor_seconds() - used)
    for name, seconds in best.items():
        print(
            f"{name}: {num_videos / seconds:.1f} videos/s, {1000 * work[name] / num_videos:.1f} ms of processor time "
            f"a video ({num_videos} videos, {arguments.clips} clips each)"
        )
    for what, found in (("as long as", best), ("the processor time of", work)):
        print(f"embedding takes {found['embedding'] / found['decoding alone']:.2f} times {what} decoding alone")


def processor_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
