"""The files of an encoder that was trained on rendered people: weights in half precision, and a model card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fima.backbones.small import Small
from fima.checkpoints.checkpoint import MOTION_REGRESSION
from fima.config.checks import as_flag
from fima.files.atomic import write_file
from fima.train.encoder_settings import SyntheticEncoderSettings
from fima.use.encoder import VideoEncoder, exportable
from fima.use.export.formats import write
from fima.visual.html import render

SPAN = 0.85
"""Share of a video that a clip covers, the mean of those in training."""


def write_synthetic_encoder(encoder: Small, settings: SyntheticEncoderSettings, *, weights: Path, card: Path) -> None:
    """Write a trained encoder as `fima.load` opens it, in float16, and its card in Markdown. Raises ConfigError."""
    data = {"frames": settings.frames, "crop_size": settings.crop_size, "span": [SPAN, SPAN], "flip": 0.0}
    about: dict[str, Any] = {
        "method": MOTION_REGRESSION,
        "epoch": settings.epochs,
        "config": {"model": {"backbone": "small"}, "data": data, "run": {"seed": settings.seed}},
    }
    module = VideoEncoder(backbone="small", frames=settings.frames, crop_size=settings.crop_size, about=about)
    module.encoder.load_state_dict(encoder.state_dict())
    whole = exportable(module)
    halved = {name: value.half() if value.is_floating_point() else value for name, value in whole.weights.items()}
    write(replace(whole, weights=halved), weights, "safetensors")
    default = SyntheticEncoderSettings()
    names = ("videos", "render_size", "frames", "crop_size", "epochs", "batch_size", "lr", "weight_decay", "seed")
    given = {name: getattr(settings, name) for name in names}
    flags = "".join(f" {as_flag(name)} {value}" for name, value in given.items() if value != getattr(default, name))
    shown = {**given, "videos": f"{settings.videos:,}", "command": f"fima make-encoder --out runs/small{flags}"}
    write_file(card, render("fima.use", "synthetic_card.md", **shown) + "\n")
