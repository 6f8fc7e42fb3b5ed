"""Supervised training from scratch: the same encoder, clips and crops, but with the labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.config import DataConfig
from fima.data.augment import make_inputs
from fima.data.datasets import VideoList
from fima.data.loader import build_pretrain_loader
from fima.errors import ConfigError, DataError
from fima.evaluation.features import ClipSettings, encoder_source, extract_features
from fima.evaluation.metrics import top_k_accuracy
from fima.model.backbones import build_backbone


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Settings of supervised training."""

    backbone: str = "tiny"
    """The 3-D CNN, as in pre-training."""
    epochs: int = 60
    """Passes over the training videos."""
    batch_size: int = 16
    """Videos per step."""
    lr: float = 0.01
    """Learning rate at the start; it follows a cosine to 0."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay."""
    seed: int = 0
    """Decides weights, order and views."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be at least 1")
        for name in ("lr", "momentum", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be 0 or more")


class Classifier(nn.Module):
    """An encoder and a linear layer on its pooled features.

    Args:
        backbone: name of the encoder.
        num_classes: outputs.
    """

    def __init__(self, backbone: str, num_classes: int) -> None:
        super().__init__()
        self.encoder = build_backbone(backbone)
        self.fc = nn.Linear(self.encoder.num_features, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the logits (B, classes) of normalised clips (B, 3, T, H, W)."""
        logits: Tensor = self.fc(self.encoder(clips).mean(dim=(2, 3, 4)))
        return logits


def train_supervised(
    videos: VideoList,
    data: DataConfig,
    config: SupervisedConfig,
    *,
    device: torch.device,
    report: Callable[[int, float], None] | None = None,
) -> Classifier:
    """Train a classifier from random weights with cross-entropy, on one `full` view of each video and epoch.

    Views are cropped, flipped and coloured as in pre-training. Flips are safe only where a mirrored video keeps its
    class.

    Args:
        videos: labelled training videos.
        data: frames, crops and workers, as in pre-training.
        config: settings.
        device: where it trains.
        report: called after each epoch with its number and its mean loss.

    Returns:
        The classifier, in eval mode.

    Raises:
        DataError: a video without a label.
    """
    if not videos.classes or any(video.label is None for video in videos.videos):
        raise DataError(f"{videos.root}: supervised training needs a class for every video")
    torch.manual_seed(config.seed)
    model = Classifier(config.backbone, len(videos.classes)).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    loader = build_pretrain_loader(videos, data, batch_size=config.batch_size, seed=config.seed, rank=0, world_size=1)
    for epoch in range(config.epochs):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        loader.set_epoch(epoch)
        model.train()
        total, num_videos = 0.0, 0
        for batch in loader:
            batch = batch.to(device)
            inputs = make_inputs(batch.a, batch.draws_a, full_difference=False, frame_differences=False)
            loss = functional.cross_entropy(model(inputs.full), batch.labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(batch.labels)
            num_videos += len(batch.labels)
        if report is not None:
            report(epoch, total / num_videos)
    return model.eval()


def supervised_accuracy(
    model: Classifier, videos: VideoList, clips: ClipSettings, *, device: torch.device, workers: int = 0
) -> dict[str, float]:
    """Return top-1 and top-5 in percent, the logits averaged over evenly spread clips.

    Args:
        model: the classifier, in eval mode.
        videos: labelled test videos.
        clips: how clips are cut out of them.
        device: where the model is.
        workers: processes that decode.
    """
    source = encoder_source(model.encoder, "supervised")
    features = extract_features(source, videos, clips, device=device, workers=workers)
    # The layer is linear, so the mean of the clips' logits is the logits of the mean feature.
    with torch.inference_mode():
        scores = model.fc(features.per_video.to(device)).cpu()
    return {f"top{k}": top_k_accuracy(scores, features.labels, k) for k in (1, 5)}
