"""From features to embeddings."""

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, normalize

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
    return adaptive_avg_pool3d(full_precision(features), 2).flatten(1)


def cells(features: Tensor) -> Tensor:
    """The feature vectors slice by slice, row by row: (B, C, t, h, w) → (B, t, N, C)."""
    return features.flatten(3).permute(0, 2, 3, 1)
