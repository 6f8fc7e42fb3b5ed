"""The frame term: a clip predicts the early and the late motion of the other clip."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fima.method import losses
from fima.method.heads import Projector, pooled
from fima.method.inputs import View
from fima.method.term import ClipTerm, QueryPass, TermLoss
from fima.torch_tools.distributed import gather_rows


class FrameTerm(ClipTerm):
    """Frame-level motion loss (paper, frame-level motion): the mean of its four predictions."""

    name, queue_name = "frame", "motion_queue"
    views = ("early_difference", "late_difference")

    def keys(self, maps: Mapping[View, Tensor], project: Projector) -> Tensor:
        """Local motion: embeddings of the `early` and the `late` difference, (2, B, D)."""
        return torch.stack([project(pooled(maps[view])) for view in self.views])

    def loss(self, query: QueryPass, key_a: Tensor, key_b: Tensor) -> TermLoss:
        """In the published order: clip b early, b late, a early, a late; the keys are (2, B, D) each."""
        predictions = torch.cat([prediction.frames for prediction in query.predictions])
        keys = torch.cat([key_b, key_a])
        batch_keys = gather_rows(keys.transpose(0, 1)).transpose(0, 1)
        videos, ids, excluded = query.videos, self.queue.video_ids, None
        if videos is not None and ids is not None:
            # A sample's own local motions at other times stay: to tell them apart is what the loss is about.
            excluded = torch.cat([*[videos.other_samples()] * (len(keys) - 1), videos.same(ids)], dim=1)
        found = losses.frame_motion(
            predictions, keys, batch_keys, self.queue.snapshot(), temperature=self.temperature, excluded=excluded
        )
        self.queue.write(batch_keys.flatten(0, 1), None if videos is None else videos.batch.repeat(len(keys)))
        return TermLoss.mean(found)
