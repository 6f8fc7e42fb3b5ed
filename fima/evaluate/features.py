"""Pooled features of evenly spread clips."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.data.augment import MEAN, STD
from fima.errors import ConfigError, DataError
from fima.evaluate.extract import Decoded
from fima.evaluate.protocols import all_parts_of, parts_of
from fima.method.heads import grid_pooled
from fima.method.motion import frame_difference

DIFFERENCE_CELLS = 8
PLAIN = "rgb:avg"
PART_WIDTHS = {"avg": 1, "max": 1, "grid": 8}
"""Columns of a part, in channels of the feature map."""
MOST_CELLS = 8
"""Cells of a feature map in time, height and width that are kept for the attentive probe."""


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What turns clips into feature vectors."""

    name: str
    """Identifies the weights; part of the cache's key."""
    pool: Callable[[Tensor], Tensor]
    """uint8 clips (B, 3, F, S, S) -> float32 features (B, C), on the same device."""
    parts: tuple[str, ...] = (PLAIN,)
    """What the columns are, in order: parts of `parts_of`, each as wide as `PART_WIDTHS` says."""
    depth: int = 0
    """Columns of a part `depths`: channels of all stages together."""
    on_disk: bool = False
    """Whether its rows are cells (B, M, C) instead, kept in half precision in the cache and mapped into memory."""


@dataclass(frozen=True, kw_only=True)
class Features(Decoded):
    """Features of the videos that can be decoded, in the order of the list; `depth` as in the source."""

    pooled: Tensor
    """(V, num_clips·num_crops, C), float32; the crops of a clip follow one another."""
    parts: tuple[str, ...] = (PLAIN,)
    """As in the source; those of other windows after them, as `stride=2 rgb:avg`."""
    depth: int = 0
    cells: list[Tensor] = field(default_factory=list)
    """Instead of `pooled`, of each video the cells of all its clips: (num_clips·num_crops, M, C), half precision."""

    def rows(self, places: Sequence[int]) -> "Features":
        """Some of the videos, in another order."""
        chosen = torch.tensor(places)
        paths = [self.paths[place] for place in places]
        return replace(self, pooled=self.pooled[chosen], labels=self.labels[chosen], paths=paths)

    def columns(self, features: str) -> Tensor:
        """The columns of candidates such as `both:avg` or `grid@stride=2`, (V, num_clips·num_crops, C)."""
        pooling, _, window = features.partition("@")
        return self.columns_of([f"{window} {part}".strip() for part in parts_of(pooling)])

    def columns_of(self, parts: Sequence[str]) -> Tensor:
        """The columns of some of the parts, (V, num_clips·num_crops, C)."""
        pools = [part.rpartition(":")[2] for part in self.parts]
        of_maps = sum(PART_WIDTHS.get(pool, 0) for pool in pools)
        channels = (self.pooled.shape[-1] - self.depth * pools.count("depths")) // max(1, of_maps)
        widths = [self.depth if pool == "depths" else PART_WIDTHS[pool] * channels for pool in pools]
        found = dict(zip(self.parts, torch.split(self.pooled, widths, dim=-1), strict=True))
        return found[parts[0]] if len(parts) == 1 else torch.cat([found[part] for part in parts], dim=-1)

    @property
    def per_video(self) -> Tensor:
        """The mean over the clips and their crops, (V, C)."""
        return self.pooled.mean(dim=1)


def side_by_side(windows: Mapping[str, Features]) -> Features:
    """Return the features of one list in several windows as one; videos that lack some of them are left out.

    Windows are by name: "" for the clips as usual, or such as `stride=2`, with which the names of its parts then begin.
    Raises DataError where no video is in all of them.
    """
    if len(windows) == 1:
        return next(iter(windows.values()))
    common = set.intersection(*(set(found.paths) for found in windows.values()))
    undecodable = {video.index: video for found in windows.values() for video in found.undecodable}
    if not common:
        raise DataError(f"{next(iter(undecodable.values())).path}: no video can be decoded in all of --other-windows")
    found = [each.rows([place for place, path in enumerate(each.paths) if path in common]) for each in windows.values()]
    return replace(
        found[0],
        pooled=torch.cat([each.pooled for each in found], dim=-1),
        parts=tuple(f"{name} {part}".strip() for name, each in windows.items() for part in each.parts),
        undecodable=[video for _, video in sorted(undecodable.items())],
    )


def normalised(pixels: Tensor) -> Tensor:
    """Turn pixels in [0, 1], (B, 3, F, S, S), in place into what encoders see: minus the mean, by the deviation."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1, 1) for values in (MEAN, STD))
    return pixels.sub_(mean).div_(std)


def feature_map(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return the feature map (B, C, t, h, w), float32, of normalised clips (B, 3, F, S, S), without gradients."""
    with torch.inference_mode():
        features: Tensor = encoder(clips)
    return features.float()


def encode(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return the feature map (B, C, t, h, w) of uint8 clips (B, 3, F, S, S), without gradients."""
    return feature_map(encoder, normalised(clips.float().div_(255)))


def encode_difference(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Return the feature map (B, C, t, h, w) of the frame differences of uint8 clips (B, 3, F, S, S), as `encode`."""
    return feature_map(encoder, normalised(frame_difference(clips.float().div_(255))))


class EncoderMaps:
    """Feature maps of the clips that came last, so that the sources of one extraction share the encoder's passes.

    The encoder, in eval mode, is (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w). Features are what `--features`
    takes; for a `depths`, which averages the outputs of stages, ConfigError is raised where the encoder names none.
    """

    def __init__(self, encoder: nn.Module, features: Sequence[str] = ()) -> None:
        self._encoder = encoder
        self.stages: Mapping[str, int] = {}
        """Channels by module."""
        if any(each.endswith("depths") for each in features):
            self.stages = getattr(encoder, "stages", {})
            if not self.stages:
                raise ConfigError("--features depths: this encoder does not name its stages; choose other features")
        self._clips: Tensor | None = None
        self._maps: dict[str, Tensor] = {}
        self._depths: dict[str, dict[str, Tensor]] = {}

    def map(self, clips: Tensor, stream: str = "rgb") -> Tensor:
        """Feature map (B, C, t, h, w) of uint8 clips (B, 3, F, S, S), or of their frame differences."""
        if clips is not self._clips:
            self._clips, self._maps, self._depths = clips, {}, {}
        if stream not in self._maps:
            self._depths[stream] = {}
            with ExitStack() as hooks:
                for name, channels in self.stages.items():
                    keep = partial(_keep_average, self._depths[stream], name, channels)
                    hooks.enter_context(self._encoder.get_submodule(name).register_forward_hook(keep))
                self._maps[stream] = (encode if stream == "rgb" else encode_difference)(self._encoder, clips)
        return self._maps[stream]

    def depths(self, clips: Tensor, stream: str = "rgb") -> Tensor:
        """The average of each stage's output, side by side: (B, sum of the channels)."""
        self.map(clips, stream)
        return torch.cat([self._depths[stream][name] for name in self.stages], dim=1)


def _keep_average(kept: dict[str, Tensor], name: str, channels: int, *call: Any) -> None:  # noqa: ANN401
    """A forward hook: average a stage's output over its cells."""
    output = call[-1][0] if isinstance(call[-1], tuple) else call[-1]
    # Transformers have their channels last. Averaged at once, as the next layer may write into it.
    output = output if output.shape[1] == channels else output.movedim(-1, 1)
    kept[name] = output.float().flatten(2).mean(dim=2)


def encoder_source(
    encoder: nn.Module, name: str, features: Sequence[str] = ("avg",), maps: EncoderMaps | None = None
) -> FeatureSource:
    """Features are an encoder's feature map, pooled over time and space; one pass gives all that is wanted.

    The encoder, in eval mode, is (B, 3, F, S, S) normalised RGB -> (B, C, t, h, w), and the name identifies its
    weights, such as a hash of the checkpoint. Features, and what they raise, are those of `EncoderMaps`; maps those of
    the same features, where other sources share them. Frame differences go through the encoder with its running
    statistics, as the RGB clips do.
    """
    parts = all_parts_of(features)
    shared = maps or EncoderMaps(encoder, features)

    def pool_part(clips: Tensor, part: str) -> Tensor:
        stream, _, how = part.partition(":")
        return shared.depths(clips, stream) if how == "depths" else pooled_part(shared.map(clips, stream), how)

    def pool(clips: Tensor) -> Tensor:
        return torch.cat([pool_part(clips, part) for part in parts], dim=1)

    named = name if parts == (PLAIN,) else f"{name}, {' '.join(parts)}"
    return FeatureSource(name=named, pool=pool, parts=parts, depth=sum(shared.stages.values()))


def cells_source(maps: EncoderMaps, name: str) -> FeatureSource:
    """Cells of the feature map of RGB clips, for the attentive probe; the name identifies the encoder's weights."""
    return FeatureSource(
        name=f"{name}, cells", pool=lambda clips: normalised_cells(maps.map(clips)), parts=("rgb:cells",), on_disk=True
    )


def normalised_cells(feature_map: Tensor) -> Tensor:
    """Return the cells of feature maps (B, C, t, h, w), each of mean 0 and variance 1: (B, M, C), float32.

    Maps of more than 8 cells in time, height or width are averaged to 8 there first, which bounds what is kept.
    """
    time, height, width = (min(side, MOST_CELLS) for side in feature_map.shape[2:])
    cells = functional.adaptive_avg_pool3d(feature_map.float(), (time, height, width)).flatten(2).transpose(1, 2)
    return functional.layer_norm(cells, cells.shape[-1:])


def pooled_part(feature_map: Tensor, pool: str) -> Tensor:
    """Return what `avg`, `max` or `grid` makes of feature maps (B, C, t, h, w): (B, C), of a grid (B, C·8)."""
    if pool == "grid":
        return grid_pooled(feature_map)
    return feature_map.mean(dim=(2, 3, 4)) if pool == "avg" else feature_map.amax(dim=(2, 3, 4))


def raw_difference_features(clips: Tensor) -> Tensor:
    """Features without an encoder: absolute differences of neighbouring frames of uint8 clips (B, 3, F, S, S), pooled.

    Returns (B, (F - 1) · 65): for each pair of frames the mean over the colours, averaged in an 8 x 8 grid, then over
    the whole frame.
    """
    first, second = clips[:, :, :-1], clips[:, :, 1:]
    red, green, blue = (torch.maximum(first, second) - torch.minimum(first, second)).short().unbind(dim=1)
    difference = (red + green + blue).float().div_(3 * 255)
    grid = functional.adaptive_avg_pool2d(difference, DIFFERENCE_CELLS)
    return torch.cat([grid.flatten(1), difference.mean(dim=(2, 3))], dim=1)
