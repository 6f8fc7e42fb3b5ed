"""FIMA: the instance loss, and motion alignment at the level of frames and of cells (pixels of the feature map)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fima.config import MethodConfig, ModelConfig
from fima.method import losses
from fima.method.decoder import MotionDecoder, positional_code
from fima.method.foreground import activation_map, foreground_mask
from fima.method.heads import cells, pooled
from fima.method.inputs import ClipInputs, StepLosses, required
from fima.method.losses import positive_pairs
from fima.method.moco import MoCo, instance_stats, required_size, step_losses
from fima.method.queue import KeyQueue
from fima.torch_tools.distributed import gather_rows


@dataclass(frozen=True, kw_only=True)
class ClipKeys:
    """What the key networks say of one clip."""

    instance: Tensor | None
    """Embedding of the `full` view, (B, D); with the instance loss."""
    cells: Tensor | None
    """Motion cells: embeddings of the `full` difference, (B, t, N, D); with the cell loss."""
    mask: Tensor | None
    """Foreground, bool (B, h, w); with the cell loss."""
    frames: Tensor | None
    """Local motion: embeddings of the `early` and the `late` difference, (2, B, D); with the frame loss."""


@dataclass(frozen=True, kw_only=True)
class MotionPrediction:
    """What one clip predicts of the other clip's motion."""

    cells: Tensor | None
    """(B, t, N, D); with the cell loss."""
    frames: Tensor | None
    """Early, late: (2, B, D); with the frame loss."""


def early_and_late(slices: Tensor) -> Tensor:
    """Predictions of the early and the late local motion from those of the temporal slices.

    With two slices, slice 0 is early and slice 1 late, as published. In general the first and the last ceil(t/2) slices
    are averaged, so that the middle one of an odd number serves both.

    Args:
        slices: unit vectors, (B, t, D).

    Returns:
        Unit vectors, (2, B, D).
    """
    num_slices = slices.shape[1]
    early = slices[:, : (num_slices + 1) // 2].mean(dim=1)
    late = slices[:, num_slices // 2 :].mean(dim=1)
    return normalize(torch.stack([early, late]), dim=-1)


class FIMA(MoCo):
    """Fine-grained motion alignment; only the networks and queues that the losses in use need exist.

    Args:
        model: the networks.
        method: the losses.

    Raises:
        ConfigError: `method.queue_size` or `method.cell_queue_size` is None.
    """

    def __init__(self, model: ModelConfig, method: MethodConfig) -> None:
        super().__init__(model, method)
        num_features, dim = self.query_encoder.num_features, model.decoder_dim
        queue_size = required_size(method.queue_size, "method.queue_size")
        cell_queue_size = required_size(method.cell_queue_size, "method.cell_queue_size")
        self.motion_queue = KeyQueue(queue_size, model.embedding_dim) if method.frame_loss else None
        has_cell_queue = method.cell_loss and cell_queue_size > 0
        self.cell_queue = KeyQueue(cell_queue_size, model.embedding_dim) if has_cell_queue else None
        self.decoder: MotionDecoder | None = None
        if method.decoder and (method.frame_loss or method.cell_loss):
            self.decoder = MotionDecoder(dim, model.decoder_heads, model.decoder_layers, model.decoder_dropout)
            self.reduce = nn.Linear(num_features, dim)
            self.expand = nn.Linear(dim, num_features)
            if method.frame_loss:
                self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)

    @property
    def queues(self) -> dict[str, KeyQueue]:
        """The queues that the losses use, by the name of the loss."""
        queues = {"instance": self.queue, "frame": self.motion_queue, "cell": self.cell_queue}
        return {name: queue for name, queue in queues.items() if queue is not None}

    @torch.no_grad()
    def key_pass(self, clip: ClipInputs) -> ClipKeys:
        """Everything the losses need of one clip as a key: up to four passes of the key networks."""
        instance = motion_cells = mask = frames = None
        samples_foreground = self.method.cell_loss and self.method.foreground
        if self.method.instance_loss or samples_foreground:
            features = self.key_features(clip.full)
        if self.method.instance_loss:
            instance = self.key_embedding(features)
        if self.method.cell_loss:
            motion = self.key_features(required(clip.full_difference, "full_difference"))
            motion_cells = self.key_projector(cells(motion))
            if samples_foreground:
                mask = foreground_mask(activation_map(features, motion))
            else:
                mask = torch.ones(len(motion), *motion.shape[-2:], dtype=torch.bool, device=motion.device)
        if self.method.frame_loss:
            early = required(clip.early_difference, "early_difference")
            late = required(clip.late_difference, "late_difference")
            frames = torch.stack([self.key_embedding(self.key_features(view)) for view in (early, late)])
        return ClipKeys(instance=instance, cells=motion_cells, mask=mask, frames=frames)

    def predict_motion(self, features: Tensor, other: Tensor) -> MotionPrediction:
        """What a clip predicts of the other one's motion, from the query feature maps of both, (B, C, t, h, w).

        The decoder lets the clip's tokens, and the cls token before them, look at the other clip's tokens of the same
        temporal slice. Without it, the clip's own cells and their means are the predictions.
        """
        if self.decoder is None:
            slices = cells(features)
            cell_vectors = self.projector(slices) if self.method.cell_loss else None
            slice_vectors = self.projector(slices.mean(dim=2)) if self.method.frame_loss else None
        else:
            vectors = self._decode(self.decoder, features, other)
            num_cls = int(self.method.frame_loss)
            cell_vectors = vectors[:, :, num_cls:] if self.method.cell_loss else None
            slice_vectors = vectors[:, :, 0] if self.method.frame_loss else None
        frames = None if slice_vectors is None else early_and_late(slice_vectors)
        return MotionPrediction(cells=cell_vectors, frames=frames)

    def _decode(self, decoder: MotionDecoder, features: Tensor, other: Tensor) -> Tensor:
        """Unit vectors (B, t, 1 + N, D): the cls token's where the frame loss is on, the cells' where theirs is."""
        tokens, memory = (self.reduce(cells(clip)).flatten(0, 1) for clip in (features, other))
        code = positional_code(tokens.shape[1], tokens.shape[2], tokens.device, tokens.dtype)
        inputs = []
        if self.method.frame_loss:
            inputs.append(self.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1))
        if self.method.cell_loss:
            inputs.append(tokens + code)
        decoded = decoder(torch.cat(inputs, dim=1), memory + code)
        vectors: Tensor = self.projector(self.expand(decoded))
        return vectors.reshape(features.shape[0], features.shape[2], *vectors.shape[1:])

    def frame_loss(self, predictions: Tensor, keys: Tensor) -> Tensor:
        """Mean of the four frame-level losses; the keys enter the motion queue.

        Args:
            predictions: clip b early, b late, a early, a late, (4, B, D).
            keys: in the same order, (4, B, D).
        """
        queue = required(self.motion_queue, "motion_queue")
        batch_keys = gather_rows(keys.transpose(0, 1)).transpose(0, 1)
        frame_losses = losses.frame_motion(
            predictions, keys, batch_keys, queue.snapshot(), temperature=self.method.temperature
        )
        queue.write(batch_keys.flatten(0, 1))
        return frame_losses.mean()

    def cell_loss(self, predictions: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], pairs: Tensor) -> Tensor:
        """Pixel-level loss, the mean over both directions and all temporal slices; the cells enter the dense queue.

        Args:
            predictions: predicted motion cells of clip b and of clip a, each (B, t, N, D).
            keys: motion cells of clip b and of clip a, each (B, t, N, D).
            pairs: which cells of clip a and of clip b are positives, (B, N, N).
        """
        queued = [] if self.cell_queue is None else [self.cell_queue.snapshot()]
        batch_keys = [gather_rows(clip) for clip in keys]
        slice_losses = []
        for predicted, key, batch_key, positives in zip(
            predictions, keys, batch_keys, (pairs, pairs.transpose(1, 2)), strict=True
        ):
            everything = torch.cat([batch_key.flatten(0, 2), *queued])
            slice_losses += [
                losses.cell_motion(
                    predicted[:, index], key[:, index], positives, everything, temperature=self.method.cell_temperature
                )
                for index in range(key.shape[1])
            ]
        if self.cell_queue is not None:
            for batch_key in batch_keys:
                self.cell_queue.write(batch_key.transpose(0, 1).flatten(0, 2))
        return torch.stack(slice_losses).mean()

    def forward(self, a: ClipInputs, b: ClipInputs, *, update_keys: bool = True) -> StepLosses:
        """One step: moving average, key passes, query passes, losses, queues.

        Args:
            a: one clip of each video.
            b: the other clip.
            update_keys: whether the moving averages take their step; not in the later parts of one optimiser step.

        Raises:
            ValueError: an input lacks a difference that a loss in use needs.
        """
        if update_keys:
            self.update_key_networks()
        with self.ready_keys():
            keys_a, keys_b = self.key_pass(a), self.key_pass(b)
        features_a, features_b = self.query_features(a.full), self.query_features(b.full)
        query_a = self.projector(pooled(features_a))
        parts: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        total = features_a.new_zeros((), dtype=torch.float32)
        if self.method.instance_loss:
            query_b = self.projector(pooled(features_b))
            instance_keys = [required(keys.instance, "instance") for keys in (keys_a, keys_b)]
            contrasts = self.instance_loss(query_a, query_b, *instance_keys)
            parts["instance"] = (contrasts[0].loss + contrasts[1].loss) / 2
            stats |= instance_stats(contrasts)
            total = self.method.instance_weight * parts["instance"]
        if not (self.method.frame_loss or self.method.cell_loss):
            return step_losses(total, parts, stats, query_a)

        of_b, of_a = self.predict_motion(features_a, features_b), self.predict_motion(features_b, features_a)
        if self.method.frame_loss:
            predictions = [required(prediction.frames, "frames") for prediction in (of_b, of_a)]
            frame_keys = [required(keys.frames, "frames") for keys in (keys_b, keys_a)]
            parts["frame"] = self.frame_loss(torch.cat(predictions), torch.cat(frame_keys))
            total = total + self.method.frame_weight * parts["frame"]
        if self.method.cell_loss:
            mask_a, mask_b = required(keys_a.mask, "mask"), required(keys_b.mask, "mask")
            pairs = positive_pairs(a.box, b.box, mask_a, mask_b, pos_ratio=self.method.pos_ratio)
            parts["cell"] = self.cell_loss(
                (required(of_b.cells, "cells"), required(of_a.cells, "cells")),
                (required(keys_b.cells, "cells"), required(keys_a.cells, "cells")),
                pairs,
            )
            total = total + self.method.cell_weight * parts["cell"]
            stats["foreground_share"] = torch.stack([mask_a, mask_b]).to(total.dtype).mean()
            stats["cells_with_positives"] = pairs.any(dim=2).to(total.dtype).mean()
        return step_losses(total, parts, stats, query_a)
