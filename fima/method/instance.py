"""The instance term: a clip finds the other clip of its video. Alone it is MoCo (He et al., 2020)."""

from collections.abc import Mapping

from torch import Tensor

from fima.config import MethodConfig
from fima.method import losses
from fima.method.heads import Projector, pooled
from fima.method.inputs import View
from fima.method.queue import KeyQueue, decided_size
from fima.method.term import QueryPass, Term, TermLoss
from fima.torch_tools.distributed import gather_rows


class InstanceTerm(Term[Tensor]):
    """InfoNCE of q_a with k_b, and of q_b with k_a (paper, instance discrimination).

    Args:
        method: its temperature and the length of the queue.
        dim: size D of an embedding.

    Raises:
        ConfigError: `method.queue_size` is None.
    """

    name, queue_name = "instance", "queue"
    views = ("full",)

    def __init__(self, method: MethodConfig, dim: int) -> None:
        self.queue: KeyQueue = KeyQueue(decided_size(method.queue_size, "method.queue_size"), dim)
        self.temperature = method.temperature

    def keys(self, maps: Mapping[View, Tensor], project: Projector) -> Tensor:
        """Embeddings of the `full` view, (B, D)."""
        embedding: Tensor = project(pooled(maps["full"]))
        return embedding

    def loss(self, query: QueryPass, key_a: Tensor, key_b: Tensor) -> TermLoss:
        """The published order: k_b is in the queue when q_b is compared, so q_b meets its own clip's key as a negative.

        Args:
            query: the query pass of both clips.
            key_a: (B, D).
            key_b: (B, D).
        """
        query_a, query_b = query.embeddings
        first = losses.info_nce(query_a, key_b, self.queue.snapshot(), temperature=self.temperature)
        self.queue.write(gather_rows(key_b))
        second = losses.info_nce(query_b, key_a, self.queue.snapshot(), temperature=self.temperature)
        self.queue.write(gather_rows(key_a))
        stats = {
            "positive_similarity": (first.positive_similarity + second.positive_similarity) / 2,
            "negative_similarity": (first.negative_similarity + second.negative_similarity) / 2,
            "instance_top1": (first.top1 + second.top1) / 2,
        }
        return TermLoss(loss=(first.loss + second.loss) / 2, stats=stats)
