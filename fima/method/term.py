"""A term of the loss, and what it is computed from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fima.config import MethodConfig
from fima.method.heads import Projector, pooled
from fima.method.inputs import View
from fima.method.losses import Loss
from fima.method.prediction import MotionPrediction
from fima.method.queue import KeyQueue, decided_size
from fima.method.same_video import BatchVideos

Keys = TypeVar("Keys")
"""What a term keeps of the key pass of one clip."""


@dataclass(frozen=True, kw_only=True)
class TermLoss(Loss):
    """What a term gives."""

    stats: dict[str, Tensor] = field(default_factory=dict)
    """How the term is doing; scalars without gradient."""

    @classmethod
    def mean(cls, losses: Sequence[Loss], **stats: Tensor) -> "TermLoss":
        """The mean of several losses of the same samples, with the statistics of the term."""
        loss = torch.stack([found.loss for found in losses]).mean()
        return cls(loss=loss, each=torch.stack([found.each for found in losses]).mean(dim=0), stats=stats)


@dataclass(frozen=True, kw_only=True)
class QueryPass:
    """What the query networks say of the two clips of each video; only what a term asks for is computed, and once."""

    features: tuple[Tensor, Tensor]
    """Feature maps of the `full` views of clip a and clip b, (B, C, t, h, w)."""
    boxes: tuple[Tensor, Tensor]
    """Crops of clip a and clip b, (B, 4)."""
    videos: BatchVideos | None
    """The videos of the batch, where keys of the same one are no negatives."""
    project: Projector
    """The query projector."""
    predict: Callable[[Tensor, Tensor], MotionPrediction]
    """Predicts, from the feature maps of a clip and of the other one, the motion of the other one."""

    @cached_property
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Embeddings of clip a and clip b, (B, D)."""
        first, second = (self.project(pooled(features)) for features in self.features)
        return first, second

    @cached_property
    def predictions(self) -> tuple[MotionPrediction, MotionPrediction]:
        """The motion of clip b, predicted by clip a, and that of clip a, predicted by clip b."""
        a, b = self.features
        return self.predict(a, b), self.predict(b, a)


class Term(ABC, Generic[Keys]):
    """One contrastive loss: the queue of its negatives, its part of the key pass, and the loss itself.

    The encoder passes are shared: the key encoder sees each view that some term names in `views` once.
    """

    name: str
    """In the log, and of its weight among the settings, `NAME_weight`."""
    queue_name: str
    """Of its queue in the state dict of a method."""
    views: tuple[View, ...]
    """What the key encoder has to see of a clip."""
    queue: KeyQueue | None
    """Negatives of earlier steps; None where it does without."""

    @abstractmethod
    def keys(self, maps: Mapping[View, Tensor], project: Projector) -> Keys:
        """What the loss needs of a clip as a key, from its key feature maps of `views`, (B, C, t, h, w)."""

    @abstractmethod
    def loss(self, query: QueryPass, key_a: Keys, key_b: Keys) -> TermLoss:
        """The loss, the mean over both directions; afterwards the keys of the global batch are in the queue."""


class ClipTerm(Term[Tensor]):
    """A term whose keys stand for whole clips, with a queue of them.

    Raises:
        ConfigError: `method.queue_size` is None.
    """

    queue: KeyQueue

    def __init__(self, method: MethodConfig, dim: int) -> None:
        self.queue = KeyQueue(
            decided_size(method.queue_size, "method.queue_size"), dim, knows_videos=method.exclude_same_video
        )
        self.temperature = method.temperature
