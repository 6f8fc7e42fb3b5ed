"""Attentive probe: one cross-attention block and a linear layer on the cells of frozen feature maps."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.data.eval_clips import ClipSettings
from fima.evaluate.features import Features
from fima.evaluate.linear import check_classes, held_out_parts
from fima.evaluate.measured import FeatureSets, Measured, classified
from fima.evaluate.protocols import PROTOCOL_VERSIONS, EvaluationConfig

HEAD_SIZE = 64
"""Channels of an attention head; all channels, where they cannot be divided by it."""
LEARNING_RATES = (3e-4, 1e-3)
WEIGHT_DECAYS = (0.01, 1.0)
EPOCHS = (10, 20, 40)
"""Lengths of the training to choose from. One training shows them all, as its learning rate is constant."""
INNER_FOLDS = 3
BATCH_SIZES = (16, 128)
"""Least and most videos a step; a 32nd of the training videos in between."""
INITIAL_STD = 0.02


class AttentiveProbe(nn.Module):
    """The attentive probe of V-JEPA (Bardes et al., 2024): a learned query attends to all cells of a video.

        y = q + Attention(q, LayerNorm(cells)),  z = y + MLP(LayerNorm(y)),  scores = W·z + b

    The mean and variance of the first LayerNorm are computed with the features; its weights are here.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_heads = 1 if num_features % HEAD_SIZE else num_features // HEAD_SIZE
        self.query = nn.Parameter(torch.zeros(1, num_features))
        self.norm_cells = nn.LayerNorm(num_features)
        self.attention = nn.MultiheadAttention(num_features, self.num_heads, batch_first=True)
        self.norm_mlp = nn.LayerNorm(num_features)
        self.mlp = nn.Sequential(
            nn.Linear(num_features, 4 * num_features), nn.GELU(), nn.Linear(4 * num_features, num_features)
        )
        self.head = nn.Linear(num_features, num_classes)
        for name, value in self.named_parameters():
            if value.ndim == 2:
                nn.init.trunc_normal_(value, std=INITIAL_STD)
            elif not name.startswith("norm"):
                nn.init.zeros_(value)

    def forward(self, cells: Tensor) -> Tensor:
        """Scores (B, classes) of the `normalised_cells` of all clips of videos, (B, M, C)."""
        return self.classify(attend(self.queries(), cells))

    def queries(self) -> Tensor:
        """What each head looks for, in the space of the cells: (heads, C).

        Attention with a single query is linear in the cells before the softmax and after it. So the query takes on the
        projection of the keys, and the mean of the cells that of the values: 64 times less work, the same result.
        """
        weight_query, weight_key, _ = self.attention.in_proj_weight.chunk(3)
        query = functional.linear(self.query, weight_query, self.attention.in_proj_bias.chunk(3)[0])
        by_head = query.view(self.num_heads, 1, -1) @ weight_key.view(self.num_heads, -1, weight_key.shape[1])
        found: Tensor = by_head[:, 0] * self.norm_cells.weight * (len(weight_key) // self.num_heads) ** -0.5
        return found

    def classify(self, attended: Tensor) -> Tensor:
        """Scores (B, classes) of what each head attended to, (B, heads, C)."""
        values = attended * self.norm_cells.weight + self.norm_cells.bias
        weight = self.attention.in_proj_weight.chunk(3)[2].view(self.num_heads, -1, values.shape[-1])
        mixed = torch.einsum("bhc,hdc->bhd", values, weight).flatten(1) + self.attention.in_proj_bias.chunk(3)[2]
        found = self.query + self.attention.out_proj(mixed)
        scores: Tensor = self.head(found + self.mlp(self.norm_mlp(found)))
        return scores


def attend(queries: Tensor, cells: Tensor) -> Tensor:
    """The mean of the cells (B, M, C), weighted by softmax(queries · cells), for each of Q queries: (B, Q, C)."""
    expanded = queries.expand(len(cells), -1, -1)
    return functional.scaled_dot_product_attention(expanded, cells, cells, scale=1.0)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a probe is trained: by AdamW with a constant learning rate and weight decay on all weights."""

    learning_rate: float
    weight_decay: float
    epochs: int


CANDIDATES = tuple(
    Training(learning_rate=rate, weight_decay=decay, epochs=epochs)
    for epochs, rate, decay in itertools.product(EPOCHS, LEARNING_RATES, WEIGHT_DECAYS)
)


def _batch(videos: Features, places: Tensor, device: torch.device) -> Tensor:
    """All cells of some videos, float32 or wider (B, clips·M, C), on the device."""
    rows = torch.stack([videos.cells[place].flatten(0, 1) for place in places.tolist()])
    return rows.to(device, torch.promote_types(rows.dtype, torch.float32))


def train_together(
    sets: FeatureSets, places: Tensor, candidates: Sequence[Training], seed: int, device: torch.device
) -> Iterator[tuple[int, list[AttentiveProbe]]]:
    """Train a probe for each candidate, all of them on the same batches; a probe is what it would be alone.

    Yields, after each epoch, its number from 1 on, and the probes. The seed decides the first weights, the same for all
    probes, and the batches of the training videos at `places`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = AttentiveProbe(sets.train.cells[0].shape[-1], sets.num_classes)
    probes = [copy.deepcopy(first).to(device) for _ in candidates]
    groups = [
        {"params": list(probe.parameters()), "lr": each.learning_rate, "weight_decay": each.weight_decay}
        for probe, each in zip(probes, candidates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    generator = torch.Generator().manual_seed(seed)
    least, most = BATCH_SIZES
    size = min(most, max(least, len(places) // 32))
    for epoch in range(1, max(each.epochs for each in candidates) + 1):
        for batch in torch.split(places[torch.randperm(len(places), generator=generator)], size):
            labels = sets.train.labels[batch].to(device)
            scores = scores_of(probes, _batch(sets.train, batch, device))
            optimizer.zero_grad()
            losses = [functional.cross_entropy(each, labels) for each in scores]
            torch.autograd.backward(losses)
            optimizer.step()
        yield epoch, probes


def scores_of(probes: Sequence[AttentiveProbe], cells: Tensor) -> list[Tensor]:
    """Return the scores (B, classes) of several probes of cells (B, M, C), which are read once for all of them."""
    queries = [probe.queries() for probe in probes]
    attended = torch.split(attend(torch.cat(queries), cells), [len(each) for each in queries], dim=1)
    return [probe.classify(each) for probe, each in zip(probes, attended, strict=True)]


def choose_training(sets: FeatureSets, seed: int, device: torch.device) -> tuple[dict[Training, float], str]:
    """Return each candidate's accuracy in percent on training videos that were held out, a third at a time, and how."""
    hits = dict.fromkeys(CANDIDATES, 0)
    num_held_out = 0
    rates = [each for each in CANDIDATES if each.epochs == EPOCHS[-1]]
    parts, selection = held_out_parts(sets.train.labels.numpy(), sets.train_groups, seed, INNER_FOLDS)
    for held_out in parts:
        unseen, seen = (torch.from_numpy(part.nonzero()[0]) for part in (held_out, ~held_out))
        num_held_out += len(unseen)
        for epoch, probes in train_together(sets, seen, rates, seed, device):
            if epoch in EPOCHS:
                found = _predictions(probes, sets.train, unseen, device)
                right = found.argmax(dim=2) == sets.train.labels[unseen]
                for each, count in zip(rates, right.sum(dim=1).tolist(), strict=True):
                    hits[replace(each, epochs=epoch)] += count
    return {each: 100 * count / num_held_out for each, count in hits.items()}, selection


@torch.no_grad()
def _predictions(probes: Sequence[AttentiveProbe], videos: Features, places: Tensor, device: torch.device) -> Tensor:
    """Scores (probes, V, classes) of some videos."""
    batches = (_batch(videos, part, device) for part in torch.split(places, BATCH_SIZES[0]))
    return torch.cat([torch.stack(scores_of(probes, batch)).cpu() for batch in batches], dim=1)


def measure_attentive(
    sets: FeatureSets, clips: ClipSettings, config: EvaluationConfig, device: torch.device
) -> Measured:
    """Run the protocol `attentive` on cells of `cells_source`; DataError for too few videos or classes."""
    check_classes(sets.train.labels, sets.num_classes, "attentive")
    held_out, selection = choose_training(sets, config.seed, device)
    # Of equals, the shortest training.
    chosen = max(held_out, key=lambda each: held_out[each])
    *_, (_, probes) = train_together(sets, torch.arange(len(sets.train.cells)), [chosen], config.seed, device)
    scores = {
        name: (_predictions(probes, test, torch.arange(len(test.cells)), device)[0], test.labels)
        for name, test in sets.tests.items()
    }
    return classified(
        scores,
        sets.train.labels,
        settings={
            "version": PROTOCOL_VERSIONS["attentive"],
            "clips": asdict(clips),
            "features": "cells of the frozen encoder's feature map in eval mode, of all clips and crops of a video",
            "classifier": "one cross-attention block with a learned query, and a linear layer",
            "optimizer": "AdamW, constant learning rate, cross-entropy",
            "candidates": [asdict(each) for each in CANDIDATES],
            "selection": selection,
            "augmentation": "none",
            "seed": config.seed,
        },
        notes={
            **asdict(chosen),
            "held_out_accuracies": [{**asdict(each), "top1": top1} for each, top1 in held_out.items()],
        },
    )
