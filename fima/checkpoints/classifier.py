"""A linear layer on the pooled features of an encoder, and how it is loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.backbones.base import Backbone
from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import ClassifierCheckpoint, load_checkpoint, load_weights
from fima.config import ClassifierConfig
from fima.errors import CheckpointError
from fima.method.heads import GRID_PARTS, grid_pooled, pooled
from fima.method.losses import full_precision


class Classifier(nn.Module):
    """logits = fc(dropout(pool(encoder(clip)))), the pooled features L2-normalised before the dropout on request.

    The encoder maps normalised RGB (B, 3, T, H, W) to (B, C, t, h, w). With `freeze`, it gets no gradient and stays in
    eval mode, also while `fc` is trained.
    """

    def __init__(self, encoder: Backbone, num_classes: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = grid_pooled if config.grid else pooled
        self.fc = nn.Linear(encoder.num_features * (GRID_PARTS if config.grid else 1), num_classes)
        self.dropout = nn.Dropout(config.dropout)
        self.l2_normalise = config.l2_normalise
        self.freeze = config.freeze
        if config.freeze:
            encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode, but for a frozen encoder, which keeps its batch-norm statistics."""
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Return the logits (B, classes), at least float32, of normalised clips (B, 3, T, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            features = full_precision(self.pool(self.encoder(clips)))
        with torch.autocast(clips.device.type, enabled=False):
            if self.l2_normalise:
                features = functional.normalize(features, dim=1)
            logits: Tensor = self.fc(self.dropout(features))
        return logits


@dataclass(frozen=True, kw_only=True)
class LoadedClassifier:
    """The classifier of a checkpoint, in eval mode."""

    model: Classifier
    """(B, 3, T, H, W) normalised RGB -> (B, classes)."""
    checkpoint: ClassifierCheckpoint


def load_classifier(path: Path, *, device: torch.device) -> LoadedClassifier:
    """Load the classifier of a checkpoint of `fima finetune` in eval mode. Raises CheckpointError."""
    checkpoint = load_checkpoint(path, ClassifierCheckpoint)
    settings = checkpoint.config.classifier
    if settings.backbone is None:
        raise CheckpointError(f"{path}: not a complete checkpoint (it names no backbone)")
    model = Classifier(build_backbone(settings.backbone), len(checkpoint.classes), settings)
    load_weights(model, checkpoint.model, source=path, what=f"classifier on {settings.backbone}")
    return LoadedClassifier(model=model.to(device).eval(), checkpoint=checkpoint)
