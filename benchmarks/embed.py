"""How fast `fima embed` is against decoding alone: `python benchmarks/embed.py ENCODER VIDEOS --workers 2`."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import fima
from fima.data.datasets import list_videos
from fima.embedding.extract import extract_rows


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
    best = dict.fromkeys(networks, float("inf"))
    for _ in range(arguments.repeats):
        for name, network in networks.items():
            began = time.perf_counter()
            rows = extract_rows(
                paths,
                network,
                encoder.clip_settings(clips=arguments.clips),
                batch_size=arguments.batch_size,
                workers=arguments.workers,
            )
            num_videos = sum(1 for _ in rows)
            best[name] = min(best[name], time.perf_counter() - began)
    for name, seconds in best.items():
        print(f"{name}: {num_videos / seconds:.1f} videos/s ({num_videos} videos, {arguments.clips} clips each)")
    print(f"embedding takes {best['embedding'] / best['decoding alone']:.2f} times as long as decoding alone")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
