"""An encoder as an ordinary module, with its preprocessing: `fima.load`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import described, versions, weights_hash
from fima.checkpoints.pretrained import encoder_file, load_pretrained
from fima.config import DataConfig
from fima.data.augment import MEAN, STD
from fima.data.clips import TIMING
from fima.data.eval_clips import CENTRE_SHARE, ClipSettings, NumCrops, square_crops
from fima.data.loader import SkippedVideo
from fima.data.views import crop_and_resize
from fima.errors import ConfigError, VideoError
from fima.evaluate.extract import Resources, VideoRows, extract_rows
from fima.evaluate.features import feature_map, normalised
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.loaded_model import open_checkpoint
from fima.evaluate.other_encoders import open_other
from fima.method.heads import pooled
from fima.recipe import config_to_mapping
from fima.torch_tools.device import choose_device
from fima.use.export.card import model_card
from fima.use.export.formats import Exportable
from fima.use.hub import HUB_SCHEME, HubMixin, download

Source = str | Path


def _described(given: object) -> str:
    return f"{given.dtype} of {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__


class ClipTransform(nn.Module):
    """Frames of a clip as the encoder takes them; called as torchvision's video transforms are.

    A centred square of 0.875 of the short side, scaled to `crop_size` (bilinear), values / 255, minus the mean, by the
    standard deviation. The frames are those of the clip, timed as in `VideoEncoder.clip_settings`.

    Args:
        frames: frames per clip that the encoder was trained on.
        crop_size: side of the result, in pixels.
    """

    def __init__(self, *, frames: int, crop_size: int) -> None:
        super().__init__()
        self.frames = frames
        self.crop_size = crop_size

    def forward(self, frames: Tensor) -> Tensor:
        """Return float32 (3, T, S, S) of uint8 frames (T, 3, H, W), or (B, …) of (B, …); ConfigError for others."""
        fits = isinstance(frames, Tensor) and frames.dtype == torch.uint8 and frames.ndim in (4, 5)
        if not fits or frames.shape[-3] != 3 or 0 in frames.shape[-2:]:
            raise ConfigError(
                f"frames must be a uint8 tensor of shape (T, 3, H, W) or (B, T, 3, H, W), not {_described(frames)}"
            )
        batch = frames if frames.ndim == 5 else frames[None]
        (crop,) = square_crops(frames.shape[-1], frames.shape[-2])
        # All frames as those of one clip: none depends on another.
        pixels = batch.flatten(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        resized = crop_and_resize(pixels, crop, self.crop_size).to(frames.device)
        clips = resized.reshape(3, *batch.shape[:2], *resized.shape[-2:]).transpose(0, 1).contiguous()
        result = normalised(clips.float() / 255)
        return result if frames.ndim == 5 else result[0]


def preprocessing_of(clips: ClipSettings, *, averaged: str = "results") -> dict[str, Any]:
    """What another program needs to make the same clips, and what of theirs is averaged; plain values."""
    crop = "three squares along the longer side" if clips.num_crops == 3 else "centred square"
    if clips.ori_resolution is None:
        side = f", {CENTRE_SHARE} of the short side"
    else:
        side = f" of {round(CENTRE_SHARE * clips.ori_resolution)} pixels before resizing, at most the short side"
    return {
        "input": "float32 (batch, 3, frames, height, width), RGB",
        "frames": clips.frames,
        **clips.timing.rule,
        "crop": crop + side,
        "resize": {"height": clips.crop_size, "width": clips.crop_size, "mode": "bilinear", "antialias": False},
        "scale": "whole values of 0..255 after resizing, divided by 255",
        "mean": list(MEAN),
        "std": list(STD),
        "clips_of_a_video": f"{clips.num_clips} at equal distances from the beginning to the end; their {averaged} are "
        "averaged",
    }


class VideoEncoder(
    nn.Module,
    HubMixin,
    library_name="fima",
    tags=["video", "video-feature-extraction", "self-supervised-learning"],
):
    """A 3-D CNN from clips to one vector each, in eval mode.

    Args:
        backbone: name of the architecture.
        frames: frames per clip that it was trained on.
        crop_size: side of the clips that it was trained on, in pixels.
        about: where it comes from: method, epochs, hash of the checkpoint, settings of the run; plain values.
    """

    def __init__(
        self, *, backbone: str, frames: int = 16, crop_size: int = 224, about: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = build_backbone(backbone)
        self.transform = ClipTransform(frames=frames, crop_size=crop_size)
        self.about = dict(about or {})
        self.source: str | None = None
        self.eval()

    @property
    def num_features(self) -> int:
        """Size C of the vectors."""
        return self.encoder.num_features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def description(self) -> str:
        """One line for a table or a figure."""
        cost = (self.about.get("config") or {}).get("method", {}).get("cost", "full")
        return described(self.about.get("method", "encoder"), self.backbone, self.about.get("epoch"), cost=cost)

    def facts(self) -> dict[str, Any]:
        """What an exported file says of it, from which `load` opens it again; plain values."""
        transform = self.transform
        config = self.about.get("config") or {"model": {"backbone": self.backbone}}
        shown = {"frames": transform.frames, "crop_size": transform.crop_size}
        return {
            "format": "fima-encoder",
            "preprocessing": preprocessing_of(self.clip_settings()),
            "backbone": self.backbone,
            "num_outputs": self.num_features,
            "method": self.about.get("method", "encoder"),
            "epoch": self.about.get("epoch"),
            "checkpoint_hash": self.about.get("checkpoint_hash"),
            "config": {**config, "data": {**config.get("data", {}), **shown}},
            "versions": versions(),
        }

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of its weights, whatever file they came from."""
        return weights_hash(self.encoder, self.backbone)

    def generate_model_card(self, *args: object, **settings: object) -> Any:  # noqa: ANN401
        """Return the card that `save_pretrained` and `push_to_hub` write next to the weights."""
        from huggingface_hub import ModelCard

        address = settings.get("repo_id")
        name = "FOLDER" if address is None else f"{HUB_SCHEME}{address}"
        return ModelCard(model_card(self.description, self.facts(), source=self.source, name=name))

    def forward(self, clips: Tensor) -> Tensor:
        """Return vectors (B, C) of clips (B, 3, T, H, W) as `transform` makes them: its feature map's mean.

        Clips are of the floating point of the weights, and so are the vectors. Raises ConfigError for other clips.
        """
        return pooled(self.feature_map(clips))

    def feature_map(self, clips: Tensor) -> Tensor:
        """Return the feature map (B, C, t, h, w) of clips (B, 3, T, H, W) as `forward` takes them."""
        if clips.ndim != 5 or clips.shape[1] != 3 or not clips.is_floating_point():
            raise ConfigError(
                "clips must be floating point of shape (B, 3, T, H, W), as `transform` makes them, not "
                f"{_described(clips)}"
            )
        features: Tensor = self.encoder(clips)
        return features

    def vectors(self, clips: Tensor) -> Tensor:
        """Return float32 vectors (B, C) of uint8 clips (B, 3, T, H, W), without gradients; ConfigError for others."""
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[1] != 3:
            raise ConfigError(f"clips must be uint8 of shape (B, 3, T, H, W), not {_described(clips)}")
        pixels = normalised(clips.to(self.device).float().div_(255))
        return pooled(feature_map(self.encoder, pixels.to(next(self.parameters()).dtype)))

    def clip_settings(
        self, *, clips: int = 10, crops: NumCrops = 1, frames: int | None = None, crop_size: int | None = None
    ) -> ClipSettings:
        """How clips for it are cut out of videos; timed as in training, frames and crop size too unless given."""
        data = (self.about.get("config") or {}).get("data", {})
        trained = DataConfig(**{name: data[name] for name in (*TIMING, "frame_rate") if data.get(name) is not None})
        return replace(
            ClipSettings.of(trained),
            frames=self.transform.frames if frames is None else frames,
            crop_size=self.transform.crop_size if crop_size is None else crop_size,
            num_clips=clips,
            num_crops=crops,
        )

    def embed(
        self,
        videos: Source | Sequence[Source],
        *,
        clips: int = 10,
        crops: NumCrops = 1,
        per: Literal["video", "clip"] = "video",
        settings: ClipSettings | None = None,
        batch_size: int = 16,
        workers: int = 0,
    ) -> Tensor:
        """Embed video files.

        Args:
            videos: one file or several.
            clips: clips per video, evenly spread over it.
            crops: crops per clip, whose vectors are averaged: the centre, or three along the longer side.
            per: `video`, the mean over its clips; `clip`, one vector for each.
            settings: how clips are cut, instead of `clips` and `crops`.
            batch_size: clips at a time.
            workers: processes that decode; 0 decodes in this one.

        Returns:
            float32 on the CPU: (C,) for one file, (V, C) for several; with `per="clip"` (clips, C) and (V, clips, C).

        Raises:
            VideoError: a file cannot be decoded.
            ConfigError: an argument is none of these.
        """
        if per not in ("video", "clip"):
            raise ConfigError(f"per={per!r}: choose 'video' or 'clip'; `fima embed --per second` gives one a second")
        several = not isinstance(videos, (str, Path))
        paths = [Path(videos)] if isinstance(videos, (str, Path)) else [Path(video) for video in videos]
        settings = settings or self.clip_settings(clips=clips, crops=crops)
        resources = Resources(device=self.device, batch_size=batch_size, workers=workers)
        if not paths:
            return torch.empty(0, *([] if per == "video" else [settings.num_clips]), self.num_features)
        found = rows_of(paths, self.vectors, settings, resources)
        rows = [each.whole.rows[0, 0] if per == "video" else each.rows.mean(dim=1) for each in found]
        return torch.stack(rows) if several else rows[0]


def rows_of(
    paths: Sequence[Path], network: Callable[[Tensor], Tensor], settings: ClipSettings, resources: Resources
) -> list[VideoRows]:
    """Return the rows of each video, in the order of the paths, by `extract_rows`; VideoError for one without any."""
    found: dict[int, VideoRows] = {}
    for item in extract_rows(paths, network, settings, resources):
        if isinstance(item, SkippedVideo):
            raise VideoError(Path(item.path), item.reason)
        found[item.index] = item
    return [found[index] for index in range(len(paths))]


def load(source: Source, *, backbone: str | None = None, device: str | torch.device = "cpu") -> VideoEncoder:
    """Open an encoder, without running any code that a file may hold.

    Args:
        source: folder of a run; any checkpoint or weights that `fima evaluate` takes; a folder that `save_pretrained`
            wrote; `hf://OWNER/NAME`, the same on the Hugging Face Hub; or the name of an encoder that comes with the
            package.
        backbone: the architecture that it must have; None takes what the file holds.
        device: where its weights go; `auto`: a GPU if there is one.

    Raises:
        CheckpointError: there is no such encoder, or it is damaged or of another architecture.
        ConfigError: there is no such device.
    """
    is_checked = isinstance(device, str) and not device.startswith(("mps", "xpu"))  # what no command trains on
    device = choose_device(str(device)) if is_checked else torch.device(device)
    path = encoder_file(_local(source))
    loaded = load_pretrained(path, backbone=backbone, device=torch.device("cpu"))
    data = loaded.config.data
    encoder = VideoEncoder(
        backbone=loaded.config.model.backbone,
        frames=data.frames,
        crop_size=data.crop_size,
        about={
            "method": loaded.method,
            "epoch": loaded.epoch,
            "checkpoint_hash": loaded.checkpoint_hash,
            "config": config_to_mapping(loaded.config) if loaded.knows_settings else None,
        },
    )
    encoder.encoder.load_state_dict(loaded.encoder.state_dict())
    encoder.source = str(path)
    return encoder.to(device)


def _local(source: Source) -> Path:
    return download(str(source)) if str(source).startswith(HUB_SCHEME) else Path(source)


def exportable(encoder: VideoEncoder) -> Exportable:
    """Return what there is to export of an encoder."""
    return Exportable(
        module=encoder,
        output="vectors",
        weights=dict(encoder.encoder.state_dict()),
        facts={**encoder.facts(), "output": f"vectors, float32 (batch, {encoder.num_features})"},
        clips=encoder.clip_settings(),
    )


def open_encoder(source: str, device: torch.device) -> FrozenEncoder:
    """Open what `load` or `open_other` opens, as evaluation knows all of them; raises what these do."""
    found = open_other(source)
    if found is None:
        found = open_checkpoint(_local(source), device=device)
        # The fingerprint of a `VideoEncoder`: of the weights, whatever file they came from.
        found = replace(found, identity=weights_hash(found.module, found.about["backbone"]))
    found.module.to(device)
    return found
