"""Data sets and feature sources whose figures are known before they are measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import ClassifierCheckpoint, Progress, Selection, save_checkpoint, versions
from fima.checkpoints.classifier import Classifier
from fima.config import ClassifierConfig, DataConfig, FinetuneConfig
from fima.data.datasets import VideoList
from fima.data.eval_clips import ClipSettings
from fima.evaluate.extract import Resources
from fima.evaluate.feature_store import FeatureStore
from fima.evaluate.features import Features, FeatureSource
from fima.evaluate.frozen import FrozenEncoder
from tests.layout_files import write_lines
from tests.video_files import write_video

CLASSES = ("Dark", "Medium, Grey", "Bright")
"""The brightness of a video is its class."""
NUM_PER_CLASS = 6


def gaussians(num_per_class: int, num_classes: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points (V, 8) around one centre a class."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(num_classes, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(num_classes).repeat(num_per_class)
    return centres[labels] + spread * torch.randn(len(labels), 8, generator=generator), labels


def brightness_features(clips: Tensor) -> Tensor:
    """Features without an encoder, (B, 3): how near the brightness of clips (B, 3, F, S, S) is to each class's."""
    brightness = clips.float().mean(dim=(1, 2, 3, 4))
    return (1 - (brightness[:, None] - torch.tensor([45.0, 125.0, 205.0])).abs() / 60).clamp(min=0)


BRIGHTNESS = FeatureSource(name="brightness", pool=brightness_features)


def encoder_of(source: FeatureSource) -> FrozenEncoder:
    """An encoder that gives a source's features of clips, which it turns back into whole numbers."""

    def network(clips: Tensor) -> Tensor:
        return source.pool((255 * clips).round().to(torch.uint8))

    return FrozenEncoder(name=source.name, network=network, mean=(0, 0, 0), std=(1, 1, 1), identity=source.name)


def write_three_splits(root: Path, *, misplaced: int | None = None) -> Path:
    """Write a data set in UCF101's layout whose three splits take turns in which third of the videos is for testing.

    Args:
        root: the folder to write.
        misplaced: a video of the first class, 0 to 5, that is as bright as the last class.
    """
    names = [f"{name}/v_g{number:02d}.avi" for name in CLASSES for number in range(NUM_PER_CLASS)]
    for place, name in enumerate(names):
        shown_class = 2 if place == misplaced else place // NUM_PER_CLASS
        brightness = 40 + 80 * shown_class + 3 * (place % NUM_PER_CLASS)
        frames = np.full((10, 32, 32, 3), brightness, dtype=np.uint8)
        frames[np.arange(10), np.arange(10)] = 255
        write_video(root / "data" / name, frames)
    write_lines(root / "anno" / "classInd.txt", *(f"{number} {name}" for number, name in enumerate(CLASSES, 1)))
    for split in (1, 2, 3):
        for part in ("train", "test"):
            chosen = [name for place, name in enumerate(names) if (place % 3 == split - 1) == (part == "test")]
            write_lines(root / "anno" / f"{part}list0{split}.txt", *chosen)
    return root


def write_state_dict(path: Path, seed: int = 0) -> Path:
    """Write the weights of a small encoder as other programs do: without any settings."""
    torch.manual_seed(seed)
    torch.save(build_backbone("tiny").state_dict(), path)
    return path


def write_classifier(path: Path, classes: Sequence[str] = CLASSES, *, split: int = 1, seed: int = 0) -> Path:
    """Write a checkpoint of `fima finetune` with random weights."""
    torch.manual_seed(seed)
    config = FinetuneConfig(
        classifier=ClassifierConfig(backbone="tiny", num_classes=len(classes)),
        data=DataConfig(frames=4, crop_size=32, split=split),
    )
    model = Classifier(build_backbone("tiny"), len(classes), config.classifier)
    checkpoint = ClassifierCheckpoint(
        config=config,
        progress=Progress(epoch=3),
        model=model.state_dict(),
        optimizer={},
        selection=Selection(),
        data={"dataset": "ucf101", "num_videos": 12},
        versions=versions(),
        classes=list(classes),
        source={"file": "scratch"},
    )
    save_checkpoint(path, checkpoint)
    return path


def extract_features(
    source: FeatureSource,
    videos: VideoList,
    settings: ClipSettings,
    *,
    device: torch.device,
    workers: int = 0,
    cache: Path | None = None,
) -> Features:
    """Extract the features of one list in one process, or read them from the cache; as `FeatureStore.read`."""
    store = FeatureStore(source, settings, Resources(device=device, workers=workers), cache=cache)
    store.fill(video.path for video in videos.videos)
    return store.read(videos)
