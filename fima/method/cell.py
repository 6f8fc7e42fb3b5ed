"""The cell term: a clip predicts the motion in the foreground cells of the other clip's feature map."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fima.config import MethodConfig
from fima.method import losses
from fima.method.foreground import activation_map, foreground_mask
from fima.method.heads import Projector, cells
from fima.method.inputs import View
from fima.method.queue import KeyQueue, decided_size
from fima.method.same_video import BatchVideos
from fima.method.term import QueryPass, Term, TermLoss
from fima.torch_tools.distributed import gather_rows


@dataclass(frozen=True, kw_only=True)
class CellKeys:
    """Motion cells of a clip, and which of them are foreground."""

    cells: Tensor
    """Embeddings of the `full` difference, (B, t, N, D)."""
    mask: Tensor
    """Foreground, bool (B, h, w)."""


class CellTerm(Term[CellKeys]):
    """Pixel-level motion loss (paper, pixel-level motion): the mean over the temporal slices and both directions.

    Raises:
        ConfigError: `method.cell_queue_size` is None.
    """

    name, queue_name = "cell", "cell_queue"

    def __init__(self, method: MethodConfig, dim: int) -> None:
        size = decided_size(method.cell_queue_size, "method.cell_queue_size")
        self.queue = KeyQueue(size, dim, knows_videos=method.exclude_same_video) if size else None
        self.temperature, self.pos_ratio = method.cell_temperature, method.pos_ratio
        self.samples_foreground = method.foreground
        self.views = ("full", "full_difference") if method.foreground else ("full_difference",)

    def keys(self, maps: Mapping[View, Tensor], project: Projector) -> CellKeys:
        """The motion cells; foreground is where the RGB view and its difference are most active together."""
        motion = maps["full_difference"]
        if self.samples_foreground:
            mask = foreground_mask(activation_map(maps["full"], motion))
        else:
            mask = torch.ones(len(motion), *motion.shape[-2:], dtype=torch.bool, device=motion.device)
        return CellKeys(cells=project(cells(motion)), mask=mask)

    def loss(self, query: QueryPass, key_a: CellKeys, key_b: CellKeys) -> TermLoss:
        """Clip a's predictions meet b's cells, then b's meet a's; the cells enter the dense queue slice by slice."""
        pairs = losses.positive_pairs(*query.boxes, key_a.mask, key_b.mask, pos_ratio=self.pos_ratio)
        queued = [] if self.queue is None else [self.queue.snapshot()]
        keys = (key_b.cells, key_a.cells)
        batch_keys = [gather_rows(clip) for clip in keys]
        excluded = None if query.videos is None else self._excluded(query.videos, key_b.cells)
        slices = []
        for predicted, key, batch_key, positives in zip(
            query.predictions, keys, batch_keys, (pairs, pairs.transpose(1, 2)), strict=True
        ):
            everything = torch.cat([batch_key.flatten(0, 2), *queued])
            slices += [
                losses.cell_motion(
                    predicted.cells[:, index],
                    key[:, index],
                    positives,
                    everything,
                    temperature=self.temperature,
                    excluded=excluded,
                )
                for index in range(key.shape[1])
            ]
        if self.queue is not None:
            num_slices, num_cells = key_b.cells.shape[1:3]
            ids = None if query.videos is None else query.videos.batch.repeat_interleave(num_cells).repeat(num_slices)
            for batch_key in batch_keys:
                self.queue.write(batch_key.transpose(0, 1).flatten(0, 2), ids)
        dtype = slices[0].loss.dtype
        return TermLoss.mean(
            slices,
            foreground_share=torch.stack([key_a.mask, key_b.mask]).to(dtype).mean(),
            cells_with_positives=pairs.any(dim=2).to(dtype).mean(),
        )

    def _excluded(self, videos: BatchVideos, key_cells: Tensor) -> Tensor:
        """Of cells (B, t, N, D), those of other samples of the same video, bool (B, M), in the order of the loss."""
        others = videos.other_samples().repeat_interleave(key_cells.shape[1] * key_cells.shape[2], dim=1)
        ids = None if self.queue is None else self.queue.video_ids
        return others if ids is None else torch.cat([others, videos.same(ids)], dim=1)
