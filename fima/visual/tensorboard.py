"""Pictures of a run for TensorBoard: the crops, where the encoder responds to them, and a map of the embeddings."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fima.data.loader import PretrainBatch
from fima.evaluation.features import encode
from fima.model.fima import FIMA
from fima.model.heads import pooled
from fima.model.moco import MoCo
from fima.visual.activation import ViewEncoders, averaged_map, with_batch_statistics
from fima.visual.overlay import in_a_column, in_a_row, overlay

NUM_SHOWN_VIDEOS = 8
NUM_SHOWN_FRAMES = 3


class PictureWriter(Protocol):
    """What is needed of TensorBoard's `SummaryWriter`."""

    def add_image(self, tag: str, img_tensor: object, global_step: int, *, dataformats: str) -> None:
        """Write one picture."""

    def add_embedding(self, mat: Tensor, metadata: list[str], label_img: Tensor, global_step: int, tag: str) -> None:
        """Write rows with a name and a small picture each."""


def log_pictures(writer: PictureWriter, method: MoCo | FIMA, batch: PretrainBatch, step: int) -> None:
    """Write crops, activation maps and embeddings of a batch; the networks and the random state stay as they are.

    - `crops`: of a few videos, frames of the `full` views of both clips, before the colour augmentation.
    - `activation`: the same with the maps of the query encoder, as in foreground sampling.
    - `embeddings`: of clip a of every video, for the projector tab.

    Args:
        writer: of the run's folder.
        method: its query encoder and projector are looked at, in eval mode.
        batch: views of the videos, on any device.
        step: optimiser steps done.
    """
    device = next(method.parameters()).device
    was_training = method.training
    method.eval()
    try:
        encoders = ViewEncoders(rgb=method.query_encoder, difference=with_batch_statistics(method.query_encoder))
        views = [clip.full[:NUM_SHOWN_VIDEOS].to(device) for clip in (batch.a, batch.b)]
        maps = [averaged_map(encoders, clips) for clips in views]
        with torch.inference_mode():
            parts = torch.split(batch.a.full, NUM_SHOWN_VIDEOS)
            features = torch.cat([pooled(encode(method.query_encoder, part.to(device))) for part in parts])
            embeddings = method.projector(features)
    finally:
        method.train(was_training)
    crops, heated = [], []
    for position in range(len(views[0])):
        rows = [_frames(clips[position]) for clips in views]
        crops.append(in_a_row([frame for row in rows for frame in row]))
        hot = []
        for row, found in zip(rows, maps, strict=True):
            heat = found[position].cpu().numpy()
            hot += [overlay(frame, heat, (float(heat.min()), float(heat.max()))) for frame in row]
        heated.append(in_a_row(hot))
    writer.add_image("crops", in_a_column(crops), step, dataformats="HWC")
    writer.add_image("activation", in_a_column(heated), step, dataformats="HWC")
    middle = batch.a.full.shape[2] // 2
    thumbs = batch.a.full[:, :, middle].float().div(255).cpu()
    writer.add_embedding(embeddings.float().cpu(), list(batch.paths), thumbs, step, "embeddings")


def _frames(clip: Tensor) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """A few frames of a clip (3, F, S, S), evenly spread: uint8 (S, S, 3) each."""
    shown = np.linspace(0, clip.shape[1] - 1, NUM_SHOWN_FRAMES).round().astype(int)
    return [clip[:, number].permute(1, 2, 0).cpu().numpy() for number in shown]
