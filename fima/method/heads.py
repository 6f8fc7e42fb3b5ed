"""From features to embeddings."""

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fima.method.losses import full_precision

GRID_PARTS = 2 * 2 * 2
"""Parts of a clip that `grid_pooled` takes the means of."""


class Projector(nn.Module):
    """Two linear layers with a ReLU between them; one serves pooled features, cells and the decoder's output.

    On cells it is what is often written as 1×1 convolutions.
    """

    def __init__(self, num_features: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, features: Tensor) -> Tensor:
        """L2-normalised embeddings, (…, D), at least float32, of features (…, C)."""
        embeddings: Tensor = self.layers(features)
        return normalize(full_precision(embeddings), dim=-1)


def pooled(features: Tensor) -> Tensor:
    """Mean over time and space: (B, C, t, h, w) → (B, C)."""
    return features.mean(dim=(2, 3, 4))


def grid_pooled(features: Tensor) -> Tensor:
    """Means over the 2 x 2 x 2 parts of a clip, at least float32: (B, C, t, h, w) → (B, C·8)."""
    # As adaptive average pooling, which PyTorch does not export for any number of clips.
    sides = [(slice((size + 1) // 2), slice(size // 2, None)) for size in features.shape[2:]]
    parts = [full_precision(features[:, :, t, h, w]).mean(dim=(2, 3, 4)) for t, h, w in product(*sides)]
    return torch.stack(parts, dim=2).flatten(1)


def cells(features: Tensor) -> Tensor:
    """The feature vectors slice by slice, row by row: (B, C, t, h, w) → (B, t, N, C)."""
    return features.flatten(3).permute(0, 2, 3, 1)
