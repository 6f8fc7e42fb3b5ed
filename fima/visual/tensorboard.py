"""Pictures of a run for TensorBoard: the crops, where the encoder responds to them, and a map of the embeddings."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fima.data.loader import PretrainBatch
from fima.evaluate.activation import ViewEncoders, averaged_map, with_batch_statistics
from fima.evaluate.features import encode
from fima.method.base import Method
from fima.method.heads import pooled
from fima.torch_tools.modes import in_eval_mode
from fima.visual.overlay import in_a_column, in_a_row, overlay

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.utils.tensorboard import SummaryWriter

NUM_SHOWN_VIDEOS = 8
NUM_SHOWN_FRAMES = 3
THUMB_PX = 64
EMBEDDINGS = "embeddings"


def log_pictures(folder: Path, method: Method, batch: PretrainBatch, step: int) -> None:
    """Write crops, activation maps and embeddings of a batch; the networks and the random state stay as they are.

    - `crops`: of a few videos, frames of the `full` views of both clips, before the colour augmentation.
    - `activation`: the same with the maps of the query encoder, as in foreground sampling.
    - `embeddings`: of clip a of every video, for the projector tab; only the latest are kept.

    Raises OSError where the files cannot be written.
    """
    device = next(method.parameters()).device
    with in_eval_mode(method):
        encoders = ViewEncoders(rgb=method.query_encoder, difference=with_batch_statistics(method.query_encoder))
        views = [clip.full[:NUM_SHOWN_VIDEOS].to(device) for clip in (batch.a, batch.b)]
        maps = [averaged_map(encoders, clips) for clips in views]
        with torch.inference_mode():
            parts = torch.split(batch.a.full, NUM_SHOWN_VIDEOS)
            features = torch.cat([pooled(encode(method.query_encoder, part.to(device))) for part in parts])
            embeddings = method.projector(features)
    crops, heated = [], []
    for position in range(len(views[0])):
        rows = [_frames(clips[position]) for clips in views]
        crops.append(in_a_row([frame for row in rows for frame in row]))
        heats = [found[position].cpu().numpy() for found in maps]
        hot = [overlay(frame, heat) for row, heat in zip(rows, heats, strict=True) for frame in row]
        heated.append(in_a_row(hot))
    middle = batch.a.full[:, :, batch.a.full.shape[2] // 2].float().div(255).cpu()
    thumbs = functional.interpolate(middle, size=(THUMB_PX, THUMB_PX), mode="bilinear", antialias=True).clamp(0, 1)
    # A line break in a file's name would be a row of its own.
    names = [" ".join(path.split()) for path in batch.paths]
    for earlier in folder.glob(f"*/{EMBEDDINGS}"):
        shutil.rmtree(earlier.parent)
    with SummaryWriter(str(folder)) as writer:
        writer.add_image("crops", in_a_column(crops), step, dataformats="HWC")
        writer.add_image("activation", in_a_column(heated), step, dataformats="HWC")
        writer.add_embedding(embeddings.float().cpu(), names, thumbs, step, EMBEDDINGS)


def _frames(clip: Tensor) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """A few frames of a clip (3, F, S, S), evenly spread: uint8 (S, S, 3) each."""
    shown = np.linspace(0, clip.shape[1] - 1, NUM_SHOWN_FRAMES).round().astype(int)
    return [clip[:, number].permute(1, 2, 0).cpu().numpy() for number in shown]
