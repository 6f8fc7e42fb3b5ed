"""What the training loop asks of a method."""

from torch import nn

from fima.backbones.base import Backbone
from fima.method.inputs import ClipInputs, StepLosses, View


class Method(nn.Module):
    """Networks that learn from two clips of each video. The whole state is saved, and resumed, with a run.

    Every encoder is a child of its own whose name ends with `_encoder`, by which warm starts and freezing find it.
    """

    query_encoder: Backbone
    """What is trained for later use: (B, 3, T, H, W) → (B, C, t, h, w)."""
    projector: nn.Module
    """From its pooled features, (B, C), to the L2-normalised embeddings, (B, D), that the health check looks at."""

    @property
    def views(self) -> tuple[View, ...]:
        """The views of a clip that `forward` needs; no others are made."""
        return ("full",)

    def forward(self, a: ClipInputs, b: ClipInputs, *, update_keys: bool = True) -> StepLosses:
        """Return the losses of one step on two clips of each video; the caller runs backward and the optimiser.

        Moving averages take their step with `update_keys`; not in the later parts of one optimiser step.
        """
        raise NotImplementedError
