"""MoCo: the instance loss alone; the baseline, and the base of FIMA."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fima.backbones.convolution import weights_transformed_once
from fima.backbones.registry import build_backbone
from fima.config import MethodConfig, ModelConfig
from fima.errors import ConfigError
from fima.method import losses
from fima.method.heads import Projector, pooled
from fima.method.inputs import ClipInputs, StepLosses, required
from fima.method.losses import Contrast
from fima.method.momentum import frozen_copy, update_average
from fima.method.queue import KeyQueue
from fima.torch_tools.distributed import all_reduce_mean, gather_rows, shuffle_rows, unshuffle_rows, world_size
from fima.torch_tools.precision import as_computed, weights_cast_once
from fima.torch_tools.recompute import recomputed


def required_size(value: int | None, flag: str) -> int:
    """A queue size that has been decided.

    Raises:
        ConfigError: it is None.
    """
    if value is None:
        raise ConfigError(f"--{flag} None: must be a number by now; give one, or derive it from the number of videos")
    return value


def step_losses(total: Tensor, parts: dict[str, Tensor], stats: dict[str, Tensor], query: Tensor) -> StepLosses:
    """Losses of the step, with `parts` and `stats` (scalars) averaged over the processes in one reduction."""
    scalars = {**parts, **stats}
    values = all_reduce_mean(torch.stack([value.detach().to(total.dtype) for value in scalars.values()]))
    reduced = dict(zip(scalars, values.unbind(), strict=True))
    return StepLosses(
        total=total,
        parts={name: reduced[name] for name in parts},
        stats={name: reduced[name] for name in stats},
        query=query.detach(),
    )


class MoCo(nn.Module):
    """Momentum contrast between the two clips of a video (He et al., 2020).

    Args:
        model: the networks.
        method: the losses.

    Raises:
        ConfigError: `method.queue_size` is None.
    """

    def __init__(self, model: ModelConfig, method: MethodConfig) -> None:
        super().__init__()
        self.method = method
        self.split_bn = model.split_bn
        self.recompute = model.recompute
        self.query_encoder = build_backbone(model.backbone)
        self.projector = Projector(self.query_encoder.num_features, model.projector_hidden, model.embedding_dim)
        self.key_encoder = frozen_copy(self.query_encoder)
        self.key_projector = frozen_copy(self.projector)
        queue_size = required_size(method.queue_size, "method.queue_size")
        self.queue = KeyQueue(queue_size, model.embedding_dim) if method.instance_loss else None

    @property
    def queues(self) -> dict[str, KeyQueue]:
        """The queues that the losses use, by the name of the loss."""
        return {"instance": required(self.queue, "queue")}

    def update_key_networks(self) -> None:
        """One step of the moving averages."""
        update_average(self.key_encoder, self.query_encoder, self.method.key_momentum)
        update_average(self.key_projector, self.projector, self.method.key_momentum)

    @contextlib.contextmanager
    def ready_keys(self) -> Iterator[None]:
        """A context in which the key networks cast or transform no weight of theirs again."""
        cast = weights_cast_once(self.key_encoder), weights_cast_once(self.key_projector)
        with cast[0], cast[1], weights_transformed_once(self.key_encoder):
            yield

    def query_features(self, view: Tensor) -> Tensor:
        """Query feature map (B, C, t, h, w) of a view (B, 3, T, H, W)."""
        features: Tensor = recomputed(self.query_encoder, view) if self.recompute else self.query_encoder(view)
        return features

    @torch.no_grad()
    def key_features(self, view: Tensor) -> Tensor:
        """Key feature map (B, C, t, h, w) of a view (B, 3, T, H, W), batch-shuffled across devices on the way.

        With split batch norm, this device's rows are shuffled too, and go through the encoder in parts.
        """
        split = self.split_bn > 1
        # What travels between devices is half as long in bfloat16, in which the encoder takes it anyway.
        shuffled, deal = shuffle_rows(as_computed(view) if world_size() > 1 else view, alone=split)
        if split:
            # Two rows at least: of a single one, batch norm would leave nothing but itself.
            parts = shuffled.tensor_split(min(self.split_bn, max(1, len(view) // 2)))
            return unshuffle_rows(torch.cat([self.key_encoder(part) for part in parts]), deal, alone=True)
        return unshuffle_rows(self.key_encoder(shuffled), deal)

    @torch.no_grad()
    def key_embedding(self, features: Tensor) -> Tensor:
        """Key embedding (B, D) of a key feature map (B, C, t, h, w)."""
        embedding: Tensor = self.key_projector(pooled(features))
        return embedding

    def instance_loss(
        self, query_a: Tensor, query_b: Tensor, key_a: Tensor, key_b: Tensor
    ) -> tuple[Contrast, Contrast]:
        """InfoNCE of q_a with k_b, and of q_b with k_a, all (B, D); the keys enter the queue.

        The published order: k_b is in the queue when q_b is compared, so q_b meets its own clip's key as a negative.
        """
        temperature, queue = self.method.temperature, required(self.queue, "queue")
        a_to_b = losses.info_nce(query_a, key_b, queue.snapshot(), temperature=temperature)
        queue.write(gather_rows(key_b))
        b_to_a = losses.info_nce(query_b, key_a, queue.snapshot(), temperature=temperature)
        queue.write(gather_rows(key_a))
        return a_to_b, b_to_a

    def forward(self, a: ClipInputs, b: ClipInputs, *, update_keys: bool = True) -> StepLosses:
        """One step: moving average, key pass, query pass, loss, queue. The caller runs backward and the optimiser.

        Args:
            a: one clip of each video.
            b: the other clip.
            update_keys: whether the moving averages take their step; not in the later parts of one optimiser step.
        """
        if update_keys:
            self.update_key_networks()
        with self.ready_keys():
            key_a, key_b = (self.key_embedding(self.key_features(clip.full)) for clip in (a, b))
        query_a, query_b = (self.projector(pooled(self.query_features(clip.full))) for clip in (a, b))
        contrasts = self.instance_loss(query_a, query_b, key_a, key_b)
        instance = (contrasts[0].loss + contrasts[1].loss) / 2
        return step_losses(
            self.method.instance_weight * instance, {"instance": instance}, instance_stats(contrasts), query_a
        )


def instance_stats(contrasts: tuple[Contrast, Contrast]) -> dict[str, Tensor]:
    """Means over the two directions of the instance loss."""
    first, second = contrasts
    return {
        "positive_similarity": (first.positive_similarity + second.positive_similarity) / 2,
        "negative_similarity": (first.negative_similarity + second.negative_similarity) / 2,
        "instance_top1": (first.top1 + second.top1) / 2,
    }
