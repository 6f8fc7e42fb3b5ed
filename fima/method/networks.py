"""The query networks, which learn, and the key networks, which follow them (momentum contrast, He et al., 2020)."""

import torch
from torch import Tensor

from fima.backbones.registry import build_backbone
from fima.config import ModelConfig
from fima.method.base import Method
from fima.method.heads import Projector
from fima.method.momentum import frozen_copy, update_average
from fima.torch_tools.distributed import shuffle_rows, unshuffle_rows, world_size
from fima.torch_tools.precision import as_computed
from fima.torch_tools.recompute import recomputed


class MomentumNetworks(Method):
    """Encoder and projector, each twice: the query networks, and key networks that are their moving averages."""

    projector: Projector

    def __init__(self, model: ModelConfig, key_momentum: float) -> None:
        super().__init__()
        self.key_momentum = key_momentum
        self.split_bn = model.split_bn
        self.recompute = model.recompute
        self.query_encoder = build_backbone(model.backbone)
        self.projector = Projector(self.query_encoder.num_features, model.projector_hidden, model.embedding_dim)
        self.key_encoder = frozen_copy(self.query_encoder)
        self.key_projector = frozen_copy(self.projector)

    def update_key_networks(self) -> None:
        """One step of the moving averages."""
        update_average(self.key_encoder, self.query_encoder, self.key_momentum)
        update_average(self.key_projector, self.projector, self.key_momentum)

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
        if world_size() > 1 and getattr(self.key_encoder, "takes_bfloat16", False):
            view = as_computed(view)  # what travels between devices is half as long
        shuffled, shuffle = shuffle_rows(view, alone=split)
        if split:
            # Two rows at least: of a single one, batch norm would leave nothing but itself.
            parts = shuffled.tensor_split(min(self.split_bn, max(1, len(view) // 2)))
            return unshuffle_rows(torch.cat([self.key_encoder(part) for part in parts]), shuffle, alone=True)
        return unshuffle_rows(self.key_encoder(shuffled), shuffle)
