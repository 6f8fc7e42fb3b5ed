"""Small encoders on disk for the tests: random weights, 4 frames, 32 pixels."""

from pathlib import Path

import torch

from fima.checkpoints.checkpoint import Checkpoint, Progress, save_checkpoint, versions
from fima.method.fima import FIMA
from fima.use.encoder import VideoEncoder
from tests.small_runs import SMALL_CONFIG


def write_checkpoint(path: Path, seed: int = 0) -> Path:
    """Write a checkpoint of `fima pretrain` with random weights."""
    torch.manual_seed(seed)
    method = FIMA(SMALL_CONFIG.model, SMALL_CONFIG.method)
    checkpoint = Checkpoint(
        config=SMALL_CONFIG,
        progress=Progress(epoch=2, step=4),
        model=method.state_dict(),
        optimizer={},
        data={"num_videos": 8},
        versions=versions(),
    )
    save_checkpoint(path, checkpoint)
    return path


def small_encoder(seed: int = 0) -> VideoEncoder:
    """An encoder with random weights."""
    torch.manual_seed(seed)
    return VideoEncoder(backbone="tiny", frames=4, crop_size=32)
