"""The instance term: a clip finds the other clip of its video. Alone it is MoCo (He et al., 2020)."""

from collections.abc import Mapping

from torch import Tensor

from fima.method import losses
from fima.method.heads import Projector, pooled
from fima.method.inputs import View
from fima.method.term import ClipTerm, QueryPass, TermLoss
from fima.torch_tools.distributed import gather_rows


class InstanceTerm(ClipTerm):
    """InfoNCE of q_a with k_b, and of q_b with k_a (paper, instance discrimination)."""

    name, queue_name = "instance", "queue"
    views = ("full",)

    def keys(self, maps: Mapping[View, Tensor], project: Projector) -> Tensor:
        """Embeddings of the `full` view, (B, D)."""
        embedding: Tensor = project(pooled(maps["full"]))
        return embedding

    def loss(self, query: QueryPass, key_a: Tensor, key_b: Tensor) -> TermLoss:
        """The published order: k_b is in the queue when q_b is compared, so q_b meets its own clip's key as a negative.

        The keys are (B, D) each.
        """
        contrasts, ids = [], self.queue.video_ids
        for embedding, key in zip(query.embeddings, (key_b, key_a), strict=True):
            excluded = None if query.videos is None or ids is None else query.videos.same(ids)
            negatives, temperature = self.queue.snapshot(), self.temperature
            contrasts.append(losses.info_nce(embedding, key, negatives, temperature=temperature, excluded=excluded))
            self.queue.write(gather_rows(key), None if query.videos is None else query.videos.batch)
        first, second = contrasts
        return TermLoss.mean(
            contrasts,
            positive_similarity=(first.positive_similarity + second.positive_similarity) / 2,
            negative_similarity=(first.negative_similarity + second.negative_similarity) / 2,
            instance_top1=(first.top1 + second.top1) / 2,
        )
