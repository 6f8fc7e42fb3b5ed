"""An exported file against the network that it came from, on clips of real videos."""

import tempfile
import timeit
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fima.data.datasets import Video, list_videos
from fima.data.eval_clips import ClipSettings
from fima.data.layouts.rows import TABLE_SUFFIXES
from fima.errors import DataError, TrainingError, first_line
from fima.evaluate.extract import Resources, decoded_clips
from fima.evaluate.features import normalised
from fima.synthetic.motion_textures import MotionTextureSettings, make_motion_textures
from fima.use.export.formats import Run

TOLERANCE = 1e-4
"""Largest difference, in proportion to the largest value: an untrained network's values may be far below 1."""
NUM_VIDEOS = 4
CLIPS_PER_VIDEO = 2
BATCHES = (1, 2, 5)
TIMED_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a comparison has found."""

    largest_difference: float
    """Between the results of the file and of PyTorch."""
    largest_value: float
    """Of PyTorch's results."""
    num_clips: int
    """Clips that were compared, in batches of several sizes."""
    clips_per_second: float
    """Of the file, on this machine's CPU."""
    pytorch_clips_per_second: float
    """Of the network in PyTorch, on the same clips."""


def real_clips(data: Path | None, settings: ClipSettings) -> Tensor:
    """Return normalised clips (B, 3, F, S, S) of a few videos: one, those of a folder or a table, or made ones.

    Raises DataError where none of them can be decoded.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = data
        if root is None:
            root = Path(folder, "made")
            make_motion_textures(root, MotionTextureSettings(num_train=10, num_test=10, size_px=48), workers=1)
        is_one = root.is_file() and root.suffix.lower() not in TABLE_SUFFIXES
        videos = [Video(root, None)] if is_one else list_videos(root, "all").videos[:NUM_VIDEOS]
        paths = [video.path for video in videos]
        clips = [clips.flatten(0, 1) for _, clips in decoded_clips(paths, settings, Resources())]
    if not clips:
        raise DataError(f"{data}: none of its first {len(paths)} videos can be decoded; give others to --data")
    return normalised(torch.cat(clips).float() / 255)


def compare(exported: Run, network: Run, clips: Tensor, *, source: Path) -> Check:
    """Compare an opened file with its network on normalised clips (B, 3, F, S, S), in batches of several sizes.

    Raises TrainingError where the file does not run, or they differ by more than `TOLERANCE`.
    """
    with torch.no_grad():
        expected = torch.cat([network(part) for part in torch.split(clips, 2)])
        try:
            results = [torch.cat([exported(part) for part in torch.split(clips, size)]) for size in BATCHES]
        except Exception as error:  # each runtime has errors of its own
            raise TrainingError(f"{source}: does not run ({first_line(error)}); try another --format") from None
        difference = float(torch.stack([(result - expected).abs().max() for result in results]).max())
        value = float(expected.abs().max())
        if not difference <= TOLERANCE * value:
            raise TrainingError(f"{source}: differs from PyTorch by {difference:.1e} (largest value {value:.2g})")
        return Check(
            largest_difference=difference,
            largest_value=value,
            num_clips=len(clips),
            clips_per_second=_speed(exported, clips[:TIMED_BATCH]),
            pytorch_clips_per_second=_speed(network, clips[:TIMED_BATCH]),
        )


def _speed(run: Run, clips: Tensor) -> float:
    return len(clips) / min(timeit.repeat(lambda: run(clips), number=1, repeat=5))
