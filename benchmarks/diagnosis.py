"""What all rows of the diagnosis cost, next to one: processor time beyond the encoder's forward passes.

One row decodes the videos and shows the clips to the encoder. All rows decode them once as well, make ten inputs of
each clip, and the features without an encoder; before that, they decode one clip of up to 64 training videos for the
backgrounds. The encoder is so small that its passes are nearly nothing; their time is measured and taken off. Probes
are fitted on the features afterwards, one for each row; they have a column of their own.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from fima.data.datasets import VideoList, list_videos
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.evaluate import extract
from fima.evaluate.diagnosis import diagnosis_source, measure_diagnosis, read_backgrounds
from fima.evaluate.extract import Resources
from fima.evaluate.feature_protocols import measure
from fima.evaluate.feature_store import FeatureStore
from fima.evaluate.features import FeatureSource, encoder_source
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.measured import FeatureSets
from fima.evaluate.protocols import EvaluationConfig
from fima.synthetic.textured import encode, textured_frames
from tables import markdown_table

NUM_CHANNELS = 64


class Coarse(nn.Module):
    """Means of large cells, through a linear layer: (B, 3, F, S, S) -> (B, 64, 4, 4, 4)."""

    num_features = NUM_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv3d(3, NUM_CHANNELS, 1)
        self.seconds = 0.0

    def forward(self, clips: Tensor) -> Tensor:
        """Feature map (B, 64, 4, 4, 4) of clips (B, 3, F, S, S)."""
        start = time.process_time()
        found: Tensor = self.mix(nn.functional.adaptive_avg_pool3d(clips, 4)).relu()
        self.seconds += time.process_time() - start
        return found


class CountingReader(VideoReader):
    """Counts the videos that are opened."""

    opened = 0

    def __init__(self, path: Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        type(self).opened += 1
        super().__init__(path, *args, **kwargs)


def write_videos(folder: Path, arguments: argparse.Namespace) -> tuple[VideoList, VideoList]:
    """Write videos of four classes, and return those to train on and to test."""
    for number in range(arguments.videos):
        part = "test" if number % 3 == 2 else "train"
        path = folder / part / f"class{number // 3 % 4}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, textured_frames(60, 240, 320, seed=number), "libx264", {"crf": "23"})
    return list_videos(folder, "train"), list_videos(folder, "test")


def cost(
    source: FeatureSource,
    encoder: Coarse,
    lists: tuple[VideoList, VideoList],
    clips: ClipSettings,
    probe: Callable[[FeatureSets], object],
) -> tuple[float, float, int]:
    """Return the processor time of extraction and of probes, without the encoder's, and the videos opened."""
    encoder.seconds, CountingReader.opened, start = 0.0, 0, time.process_time()
    store = FeatureStore(source, clips, Resources(batch_size=8))
    store.fill(video.path for videos in lists for video in videos.videos)
    extraction = time.process_time() - start - encoder.seconds
    train, test = (store.read(videos) for videos in lists)
    start = time.process_time()
    probe(FeatureSets(train=train, tests={"test": test}, videos=lists[0]))
    return extraction, time.process_time() - start, CountingReader.opened


def main() -> None:
    """Print a row for one input and for all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=48)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--crop-size", type=int, default=112)
    arguments = parser.parse_args()
    vars(extract)["VideoReader"] = CountingReader
    clips = ClipSettings(frames=arguments.frames, crop_size=arguments.crop_size, num_clips=arguments.clips)
    config = EvaluationConfig(num_clips=arguments.clips)
    torch.set_num_threads(1)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        lists = write_videos(Path(folder), arguments)
        encoder = Coarse().eval()
        frozen = FrozenEncoder(name="coarse", network=encoder, clips=clips)
        start = time.process_time()
        backgrounds = read_backgrounds(lists[0], clips, Resources())
        before = time.process_time() - start
        one = cost(
            encoder_source(encoder, "coarse"),
            encoder,
            lists,
            clips,
            lambda sets: measure("linear", sets, clips, config),
        )
        every = cost(
            diagnosis_source(frozen, *backgrounds),
            encoder,
            lists,
            clips,
            lambda sets: measure_diagnosis(sets, clips, config),
        )
    rows = [
        ["one row", "", f"{one[0]:.1f}", f"{one[1]:.1f}", str(one[2])],
        ["all rows", f"{before:.1f}", f"{every[0]:.1f}", f"{every[1]:.1f}", str(every[2])],
    ]
    print(markdown_table(["processor seconds", "backgrounds", "decoding and inputs", "probes", "videos opened"], rows))
    print(f"extraction for all rows costs {(before + every[0]) / one[0]:.2f} x that for one")
    print(f"with the probes, one for each row, {(before + sum(every[:2])) / sum(one[:2]):.2f} x")


if __name__ == "__main__":
    main()
