"""FIMA, a sum of terms: instance discrimination, and motion alignment at the level of frames and of cells.

The sum with the instance term alone is MoCo (He et al., 2020), the baseline.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fima.config import MethodConfig, ModelConfig
from fima.method.cell import CellTerm
from fima.method.decoder import MotionDecoder, positional_code
from fima.method.frame import FrameTerm
from fima.method.heads import cells
from fima.method.inputs import VIEWS, ClipInputs, StepLosses, View
from fima.method.instance import InstanceTerm
from fima.method.networks import MomentumNetworks
from fima.method.prediction import MotionPrediction
from fima.method.queue import KeyQueue
from fima.method.same_video import BatchVideos
from fima.method.term import QueryPass, Term, TermLoss
from fima.torch_tools.distributed import all_reduce_mean


class FIMA(MomentumNetworks):
    """Fine-grained motion alignment; only the networks and queues that the terms in use need exist.

    Raises:
        ConfigError: the size of a queue in use is still None.
    """

    terms: list[Term[Any]]
    """Those that are switched on."""

    def __init__(self, model: ModelConfig, method: MethodConfig) -> None:
        super().__init__(model, method.key_momentum)
        switches = ((InstanceTerm, method.instance_loss), (FrameTerm, method.frame_loss), (CellTerm, method.cell_loss))
        self.terms = [term(method, model.embedding_dim) for term, is_on in switches if is_on]
        self.weights = {term.name: float(getattr(method, f"{term.name}_weight")) for term in self.terms}
        for term in self.terms:
            if term.queue is not None:
                self.add_module(term.queue_name, term.queue)
        self.exclude_same_video = method.exclude_same_video
        self.predicts_slices, self.predicts_cells = method.frame_loss, method.cell_loss
        self.decoder: MotionDecoder | None = None
        if method.decoder and (method.frame_loss or method.cell_loss):
            num_features, dim = self.query_encoder.num_features, model.decoder_dim
            self.decoder = MotionDecoder(dim, model.decoder_heads, model.decoder_layers, model.decoder_dropout)
            self.reduce = nn.Linear(num_features, dim)
            self.expand = nn.Linear(dim, num_features)
            if method.frame_loss:
                self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)

    @property
    def queues(self) -> dict[str, KeyQueue]:
        """The queues that the terms use, by the name of the term."""
        return {term.name: term.queue for term in self.terms if term.queue is not None}

    @property
    def views(self) -> tuple[View, ...]:
        """`full`, for the query encoder, and what the terms need of a clip as a key."""
        return tuple(view for view in VIEWS if view == "full" or any(view in term.views for term in self.terms))

    @torch.no_grad()
    def key_pass(self, clip: ClipInputs) -> dict[str, Any]:
        """What each term needs of one clip as a key; the key encoder sees a view once, and only if a term needs it."""
        needed = {view for term in self.terms for view in term.views}
        maps = {view: self.key_features(clip[view]) for view in VIEWS if view in needed}
        return {term.name: term.keys(maps, self.key_projector) for term in self.terms}

    def query_pass(self, a: ClipInputs, b: ClipInputs) -> QueryPass:
        """The query features of both clips, and what follows from them."""
        return QueryPass(
            features=(self.query_features(a.full), self.query_features(b.full)),
            boxes=(a.box, b.box),
            videos=self._videos_of(a),
            project=self.projector,
            predict=self.predict_motion,
        )

    def _videos_of(self, clip: ClipInputs) -> BatchVideos | None:
        """The videos of the batch, where keys of the same one are left out of the negatives."""
        if not self.exclude_same_video:
            return None
        if clip.videos is None:
            raise ValueError("the clips do not say of which videos they are, which `exclude_same_video` needs")
        return BatchVideos.of(clip.videos)

    def predict_motion(self, features: Tensor, other: Tensor) -> MotionPrediction:
        """What a clip predicts of the other one's motion, from the query feature maps of both, (B, C, t, h, w).

        The decoder lets the clip's tokens, and the cls token before them, look at the other clip's tokens of the same
        temporal slice. Without it, the clip's own cells and their means are the predictions.
        """
        if self.decoder is None:
            slices = cells(features)
            wanted = [slices.mean(dim=2, keepdim=True)] if self.predicts_slices else []
            vectors = self.projector(torch.cat([*wanted, slices] if self.predicts_cells else wanted, dim=2))
        else:
            vectors = self._decode(self.decoder, features, other)
        num_cls = int(self.predicts_slices)
        return MotionPrediction(slices=vectors[:, :, :num_cls], cells=vectors[:, :, num_cls:])

    def _decode(self, decoder: MotionDecoder, features: Tensor, other: Tensor) -> Tensor:
        """Unit vectors (B, t, 1 + N, D): the cls token's where the frame term is on, the cells' where theirs is."""
        tokens, memory = (self.reduce(cells(clip)).flatten(0, 1) for clip in (features, other))
        code = positional_code(tokens.shape[1], tokens.shape[2], tokens.device, tokens.dtype)
        inputs = []
        if self.predicts_slices:
            inputs.append(self.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1))
        if self.predicts_cells:
            inputs.append(tokens + code)
        decoded = decoder(torch.cat(inputs, dim=1), memory + code)
        vectors: Tensor = self.projector(self.expand(decoded))
        return vectors.reshape(features.shape[0], features.shape[2], *vectors.shape[1:])

    def forward(self, a: ClipInputs, b: ClipInputs, *, update_keys: bool = True) -> StepLosses:
        """One step: moving average, key passes, query passes, losses, queues. The caller runs backward and optimiser.

        The moving averages take their step with `update_keys`; not in the later parts of one optimiser step.

        Raises:
            ValueError: an input lacks a view that a term in use needs, or its videos where keys of the same one are
                left out.
        """
        if update_keys:
            self.update_key_networks()
        keys_a, keys_b = self.key_pass(a), self.key_pass(b)
        query = self.query_pass(a, b)
        found = {term.name: term.loss(query, keys_a[term.name], keys_b[term.name]) for term in self.terms}
        total = query.features[0].new_zeros((), dtype=torch.float32)
        for name, term in found.items():
            total = total + self.weights[name] * term.loss
        each = sum((self.weights[name] * term.each for name, term in found.items()), total.new_zeros(1))
        return step_losses(total, found, each, query.embeddings[0])


def step_losses(total: Tensor, terms: Mapping[str, TermLoss], each: Tensor, query: Tensor) -> StepLosses:
    """Losses of the step, with the terms' losses and statistics averaged over the processes in one reduction."""
    parts = {name: term.loss for name, term in terms.items()}
    stats = {name: value for term in terms.values() for name, value in term.stats.items()}
    scalars = {**parts, **stats}
    values = all_reduce_mean(torch.stack([value.detach().to(total.dtype) for value in scalars.values()]))
    reduced = dict(zip(scalars, values.unbind(), strict=True))
    return StepLosses(
        total=total,
        parts={name: reduced[name] for name in parts},
        stats={name: reduced[name] for name in stats},
        each=each,
        query=query.detach(),
    )
