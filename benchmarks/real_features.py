"""Features of whole videos for `real_video.py`: hand-made ones, those of a network, and what a probe makes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.evaluate.extract import Resources, extract_rows
from fima.evaluate.features import encode
from fima.evaluate.linear import fit_linear_probe
from fima.evaluate.retrieval import centred, knn_scores
from fima.method.heads import grid_pooled

Floats = npt.NDArray[np.float64]
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of the linear probe's C."""
HEIGHT, WIDTH, CELL_PX, NUM_ANGLES, QUARTERS, NUM_SPREAD = 72, 96, 12, 9, 4, 16


def grey_frames(path: Path) -> Tensor:
    """All frames of a video, grey, (T, 72, 96) in [0, 1]."""
    with VideoReader(path) as reader:
        frames = torch.from_numpy(reader.read(range(reader.num_frames)))
    grey = frames.float().mean(dim=3)[:, None] / 255
    return functional.interpolate(grey, size=(HEIGHT, WIDTH), mode="area")[:, 0]


def hog(image: Tensor) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs, 2005) of images (N, H, W): (N, cells·angles).

    Unsigned angles, weighted by magnitude, in cells of 12 pixels; blocks of 2 x 2 cells, L2-normalised.
    """
    vertical, horizontal = torch.gradient(image, dim=(1, 2))
    magnitude = torch.hypot(horizontal, vertical)
    angle = (torch.atan2(vertical, horizontal) / torch.pi % 1 * NUM_ANGLES).long().clamp(max=NUM_ANGLES - 1)
    votes = functional.one_hot(angle, NUM_ANGLES).permute(0, 3, 1, 2) * magnitude[:, None]
    cells = functional.avg_pool2d(votes.float(), CELL_PX)
    blocks = functional.unfold(cells, 2).reshape(len(image), NUM_ANGLES * 4, -1)
    return functional.normalize(blocks, dim=1, eps=1e-3).flatten(1)


def frame_hog(path: Path) -> Tensor:
    """HOG of the middle frame."""
    frames = grey_frames(path)
    return hog(frames[len(frames) // 2][None])[0]


def motion_hog(path: Path) -> Tensor:
    """HOG, and energy in cells, of the mean absolute frame difference in each quarter of the video."""
    frames = grey_frames(path)
    parts = (frames[1:] - frames[:-1]).abs().tensor_split(QUARTERS) if len(frames) > QUARTERS else [frames - frames]
    energy = torch.stack([part.mean(dim=0) if len(part) else torch.zeros(HEIGHT, WIDTH) for part in parts])
    return torch.cat([hog(energy).flatten(), functional.avg_pool2d(energy[:, None], CELL_PX).flatten()])


def frame_differences(path: Path) -> Tensor:
    """Absolute differences of 16 frames, evenly spread over the video, averaged in an 8 x 8 grid."""
    frames = grey_frames(path)
    spread = frames[torch.linspace(0, len(frames) - 1, NUM_SPREAD).round().long()]
    return functional.adaptive_avg_pool2d((spread[1:] - spread[:-1]).abs()[:, None], 8).flatten()


@torch.no_grad()
def network_features(
    encoder: nn.Module, paths: Sequence[Path], settings: ClipSettings, device: torch.device, *, repeated: bool = False
) -> Floats:
    """Mean over the clips of an encoder's feature map, averaged in a 2 x 2 x 2 grid: (V, 8·C).

    Args:
        encoder: in eval mode, on `device`.
        paths: the videos.
        settings: how clips are cut out of them.
        device: where the encoder is.
        repeated: every clip is its middle frame, repeated.
    """

    def network(clips: Tensor) -> Tensor:
        if repeated:
            middle = clips.shape[2] // 2
            clips = clips[:, :, middle : middle + 1].expand_as(clips)
        return grid_pooled(encode(encoder, clips))

    rows = []
    for item in extract_rows(paths, network, replace(settings, num_crops=1), Resources(device=device)):
        if isinstance(item, SkippedVideo):
            raise SystemExit(f"{item.path}: {item.reason}")
        rows.append(item.rows.flatten(0, 1).mean(dim=0))
    found: Floats = torch.stack(rows).double().numpy()
    return found


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What was recognised of the test videos, and by which features."""

    window: str
    """The features that were chosen."""
    hits: dict[str, npt.NDArray[np.bool_]]
    """By metric, which test videos, (U,)."""


def recognise(
    candidates: Mapping[str, Floats],
    labels: npt.NDArray[np.int64],
    groups: Sequence[str],
    test: npt.NDArray[np.bool_],
) -> Recognised:
    """What a linear probe, the nearest neighbours and the nearest one make of the test videos.

    Args:
        candidates: features (V, C) by the window of their clips; the linear probe chooses among them, and its own
            strength, on held-out groups of the training videos.
        labels: (V,) class numbers.
        groups: the V groups.
        test: (V,) which videos are tested; the others are trained on.
    """
    targets, seen, unseen = torch.from_numpy(labels), torch.from_numpy(~test), torch.from_numpy(test)
    num_classes = int(targets.max()) + 1
    own = [group for group, tested in zip(groups, test, strict=True) if not tested]
    probes = {
        name: fit_linear_probe(
            torch.from_numpy(rows)[seen], targets[seen], num_classes=num_classes, groups=own, candidates=STRENGTHS
        )
        for name, rows in candidates.items()
    }
    window = max(probes, key=lambda name: max(probes[name].held_out_accuracies.values()))
    rows = torch.from_numpy(candidates[window])
    neighbours = knn_scores(rows[seen], targets[seen], rows[unseen], num_classes=num_classes)
    answers = {
        "linear": probes[window].scores(rows[unseen]).argmax(dim=1),
        "knn": neighbours.argmax(dim=1),
        "r1": targets[seen][(centred(rows[unseen], rows[seen]) @ centred(rows[seen]).T).argmax(dim=1)],
    }
    return Recognised(
        window=window, hits={name: (answer == targets[unseen]).numpy() for name, answer in answers.items()}
    )
