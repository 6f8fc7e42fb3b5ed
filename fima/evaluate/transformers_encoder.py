"""Video transformers in the format of Hugging Face's `transformers`: VideoMAE, V-JEPA 2, TimeSformer."""

import contextlib
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from fima.checkpoints.pretrained import CONFIG_FILE
from fima.data.clips import PUBLISHED_STRIDE
from fima.data.eval_clips import ClipSettings
from fima.errors import CheckpointError, ConfigError, first_line
from fima.evaluate.frozen import FrozenEncoder
from fima.version import pip_install

MODEL_TYPE = "model_type"
PREPROCESSING_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class ModelType:
    """How one kind of model takes clips, in the names of its configuration."""

    frames: str
    """The setting of the frames of a clip."""
    crop_size: str
    """The setting of its side, in pixels."""
    stride: float = PUBLISHED_STRIDE
    """Source frames between neighbouring frames, in its paper: the configuration has none."""
    fps: float = 0.0
    """Frames per second in its paper, instead of `stride`."""
    input: str = "pixel_values"
    """The argument that takes clips, (B, F, 3, S, S)."""
    options: dict[str, Any] | None = None
    time_last: bool = False
    """Whether its tokens are ordered by place, then by time."""


MODEL_TYPES = {
    "videomae": ModelType(frames="num_frames", crop_size="image_size", stride=4),
    "vjepa2": ModelType(
        frames="frames_per_clip",
        crop_size="crop_size",
        fps=4,
        input="pixel_values_videos",
        options={"skip_predictor": True},
    ),
    "timesformer": ModelType(frames="num_frames", crop_size="image_size", stride=32, time_last=True),
}


class TokenMaps(nn.Module):
    """The last hidden state of a model of `transformers` as a feature map."""

    def __init__(self, model: nn.Module, kind: ModelType) -> None:
        super().__init__()
        self.model: Any = model
        self.kind = kind

    def forward(self, clips: Tensor) -> Tensor:
        """Feature map (B, C, t, h, w) of clips (B, 3, F, S, S); a class token is left out."""
        kind, config = self.kind, self.model.config
        given = {kind.input: clips.transpose(1, 2), **(kind.options or {})}
        tokens: Tensor = self.model(**given).last_hidden_state
        rows, columns = (side // config.patch_size for side in clips.shape[-2:])
        slices = clips.shape[2] // getattr(config, "tubelet_size", 1)
        cells = tokens[:, tokens.shape[1] - slices * rows * columns :].transpose(1, 2)
        if kind.time_last:
            return cells.reshape(*cells.shape[:2], rows, columns, slices).permute(0, 1, 4, 2, 3)
        return cells.reshape(*cells.shape[:2], slices, rows, columns)


def model_type(path: Path) -> str | None:
    """The type of the model in a folder of `transformers`; None of others, such as `save_pretrained` of ours writes."""
    try:
        return str(json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))[MODEL_TYPE])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_transformers(path: Path) -> FrozenEncoder:
    """Open a folder of `transformers` without a classifier, on the CPU; code that it may hold is never run.

    Raises ConfigError where the library is missing, or the model takes no video; CheckpointError for files that are
    missing or damaged.
    """
    name = model_type(path)
    if name is None:
        raise CheckpointError(f"{path}: no folder of a transformers model (no {CONFIG_FILE} with a {MODEL_TYPE})")
    if name not in MODEL_TYPES:
        raise ConfigError(
            f"{path}: a model of type {name}, not a known video encoder ({', '.join(MODEL_TYPES)}); bring it as "
            "module:function"
        )
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise ConfigError(f"{path} needs transformers: {pip_install('transformers')}") from None
    try:
        with _quiet(transformers):
            model, info = transformers.AutoModel.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be loaded ({first_line(error)})") from None
    lacking = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if lacking:
        raise CheckpointError(f"{path}: its weights lack {', '.join(lacking[:3])} of the sizes in {CONFIG_FILE}")
    kind, config = MODEL_TYPES[name], model.config
    normalisation = _normalisation(path)
    mean, std = normalisation or IMAGENET
    return FrozenEncoder(
        name=f"{name} {path.resolve().name}",
        network=TokenMaps(model.float(), kind),
        clips=ClipSettings(
            frames=getattr(config, kind.frames),
            crop_size=getattr(config, kind.crop_size),
            stride=kind.stride,
            fps=kind.fps,
        ),
        mean=mean,
        std=std,
        untrained=lambda: TokenMaps(transformers.AutoModel.from_config(config), kind),
        assumption="" if normalisation else f"{path} does not say how it normalises; it gets ImageNet's mean and std",
        about={"model_type": name, "transformers": transformers.__version__},
    )


def _normalisation(path: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Mean and standard deviation of pixels in [0, 1]; None where no file says them."""
    for name in PREPROCESSING_FILES:
        try:
            content = json.loads((path / name).read_text(encoding="utf-8"))
            red, green, blue = content["image_mean"]
            return (red, green, blue), tuple(content["image_std"])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path / name}: cannot be read as preprocessing ({error})") from None
    return None


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:  # noqa: ANN401
    """Without the library's progress bars, and without warnings of the classifier's weights, which are left out."""
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
