"""The instance term: a clip finds the other clip of its video. Alone it is MoCo (He et al., 2020)."""

from collections.abc import Mapping

from torch import Tensor

from fima.method import losses
from fima.method.heads import Projector, pooled
from fima.method.inputs import View
from fima.method.same_video import BatchVideos
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
        contrasts = []
        for embedding, key in zip(query.embeddings, (key_b, key_a), strict=True):
            contrasts.append(self._contrast(embedding, key, query.videos))
            self.queue.write(gather_rows(key), None if query.videos is None else query.videos.batch)
        first, second = contrasts
        stats = {
            "positive_similarity": (first.positive_similarity + second.positive_similarity) / 2,
            "negative_similarity": (first.negative_similarity + second.negative_similarity) / 2,
            "instance_top1": (first.top1 + second.top1) / 2,
        }
        return TermLoss(loss=(first.loss + second.loss) / 2, each=(first.each + second.each) / 2, stats=stats)

    def _contrast(self, embedding: Tensor, key: Tensor, videos: BatchVideos | None) -> losses.Contrast:
        ids = self.queue.video_ids
        excluded = None if videos is None or ids is None else videos.same(ids)
        negatives = self.queue.snapshot()
        return losses.info_nce(embedding, key, negatives, temperature=self.temperature, excluded=excluded)
