"""Is the representation alive? Cheap measures that see a collapse while the loss still looks well."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fima.config import PretrainConfig
from fima.config.checks import require
from fima.data.datasets import VideoList
from fima.data.decode.limits import DecodeLimits
from fima.data.eval_clips import ClipSettings
from fima.evaluate.cam import evenly_spread
from fima.evaluate.extract import Resources, VideoRows, extract_rows
from fima.evaluate.features import encode
from fima.method.base import Method
from fima.method.heads import pooled
from fima.torch_tools.distributed import world_size
from fima.torch_tools.modes import in_eval_mode

COLLAPSED_RANK = 2.0
COLLAPSED_STD_SHARE = 0.1
FEWEST_VIDEOS = 8
KNN_NEIGHBOURS = 5
NUM_CLIPS = 2


@dataclass(frozen=True, kw_only=True)
class Health:
    """Measures of one representation over a set of videos."""

    num_videos: int
    """Videos that were looked at."""
    embedding_std: float
    """Standard deviation of the L2-normalised embeddings over the videos, averaged over the D dimensions."""
    uniform_std: float
    """1 / sqrt(D): the standard deviation of embeddings spread evenly over the sphere."""
    effective_rank: float
    """exp(entropy) of the normalised singular values of the embeddings; between 1 and min(videos, D)."""
    positive_similarity: float
    """Mean cosine between the embeddings of two clips of one video."""
    negative_similarity: float
    """Mean cosine between the embeddings of clips of different videos."""
    knn_accuracy: float | None
    """Share of videos whose nearest other videos vote for their class, on pooled encoder features; None without
    labels."""

    @property
    def collapsed(self) -> bool:
        """Whether the embeddings (almost) do not depend on the video; never said of fewer than 8 videos."""
        size = round(self.uniform_std**-2)
        return looks_collapsed(self.num_videos, self.effective_rank, self.embedding_std, size)

    @property
    def line(self) -> str:
        """One line for the terminal."""
        knn = "" if self.knn_accuracy is None else f" · kNN {self.knn_accuracy:.1%}"
        return (
            f"health: embedding std {self.embedding_std:.4f} (evenly spread {self.uniform_std:.4f}) · "
            f"effective rank {self.effective_rank:.1f} · similarity: same video {self.positive_similarity:.3f}, "
            f"others {self.negative_similarity:.3f}{knn}"
        )


def looks_collapsed(num_videos: int, rank: float, std: float, size: int) -> bool:
    """Return whether embeddings of size D (almost) do not depend on the video; never said of fewer than 8 videos.

    They do not where their effective rank is below 2, or their standard deviation below a tenth of 1 / sqrt(D).
    """
    return num_videos >= FEWEST_VIDEOS and (
        not math.isfinite(rank + std) or rank < COLLAPSED_RANK or std < COLLAPSED_STD_SHARE * size**-0.5
    )


def spread(embeddings: Tensor) -> Tensor:
    """Return the standard deviation over the rows of (V, D) L2-normalised embeddings, averaged over the dimensions.

    Returns 0 for fewer than two rows.
    """
    return embeddings.float().std(dim=0, correction=0).mean()


def effective_rank(embeddings: Tensor) -> float:
    """Return exp(-sum p_i log p_i), p the singular values of (V, D) embeddings divided by their sum.

    This is the effective rank of Roy and Vetterli (2007), on rows that are not centred, so that a collapse to one point
    gives 1. Returns NaN where an embedding is not finite.
    """
    if not torch.isfinite(embeddings).all():
        return math.nan
    values = torch.linalg.svdvals(embeddings.double())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


def knn_accuracy(features: Tensor, labels: Tensor, *, num_neighbours: int = KNN_NEIGHBOURS) -> float:
    """Return the leave-one-video-out kNN accuracy of features (V, C) by cosine similarity.

    The nearest other videos vote for their class (V,), each with its similarity as weight.
    """
    normalised = functional.normalize(features.float(), dim=1)
    similarity = (normalised @ normalised.T).fill_diagonal_(-math.inf)
    nearest = similarity.topk(min(num_neighbours, len(labels) - 1), dim=1)
    # Cosines of pooled ReLU features are positive and close together; the floor keeps a vote from counting against.
    weights = nearest.values.clamp_min(1e-6)
    votes = torch.zeros(len(labels), int(labels.max()) + 1, device=features.device)
    votes.scatter_add_(1, labels[nearest.indices], weights)
    return float((votes.argmax(dim=1) == labels).float().mean())


def measure(embeddings: Tensor, features: Tensor, labels: Tensor) -> Health:
    """Measure a representation.

    Args:
        embeddings: (V, 2, D) L2-normalised, of two clips of each video.
        features: (V, C) pooled encoder features, averaged over the clips.
        labels: (V,), -1 where unknown; the accuracy needs all of them and at least two classes.
    """
    num_videos, _, size = embeddings.shape
    similarity = embeddings[:, 0] @ embeddings[:, 1].T
    others = similarity[~torch.eye(num_videos, dtype=torch.bool, device=similarity.device)]
    labelled = num_videos > 1 and int(labels.min()) >= 0 and len(torch.unique(labels)) > 1
    return Health(
        num_videos=num_videos,
        embedding_std=float(spread(embeddings[:, 0])),
        uniform_std=size**-0.5,
        effective_rank=effective_rank(embeddings[:, 0]),
        positive_similarity=float(similarity.diagonal().mean()),
        negative_similarity=float(others.mean()) if num_videos > 1 else 0.0,
        knn_accuracy=knn_accuracy(features, labels) if labelled else None,
    )


def check_health(method: Method, videos: VideoList, config: PretrainConfig, device: torch.device) -> Health | None:
    """Measure the query networks on `config.run.health_videos` evenly chosen videos, on clips timed as in their sets.

    Networks, in eval mode, and random state stay as they were. None where fewer than two videos can be decoded.
    """
    places, plan = evenly_spread(range(len(videos.videos)), config.run.health_videos), videos.epoch
    found = []
    for number, data in enumerate(plan.settings(config.data)):
        if own := [videos.videos[place] for place in places if plan.set_number(place) == number]:
            part = dataclasses.replace(videos, videos=own, plan=None)
            found.append(clip_features(method, part, dataclasses.replace(config, data=data), device))
    decoded = [(features, labels) for features, labels in found if len(labels)]
    if sum(len(labels) for _, labels in decoded) < 2:
        return None
    features, labels = (torch.cat(parts) for parts in zip(*decoded, strict=True))
    with torch.no_grad(), in_eval_mode(method):
        embeddings = method.projector(features.flatten(0, 1)).view(len(labels), NUM_CLIPS, -1)
    return measure(embeddings, features.mean(dim=1), labels)


def require_enough_for_health(held_out: VideoList | None, config: PretrainConfig) -> None:
    """Raise ConfigError for so few held-out videos that no collapse could be told."""
    count = FEWEST_VIDEOS if held_out is None else len(held_out.videos)
    rule = f"holds out {count} of the videos; health is measured on {FEWEST_VIDEOS} or more; give a larger share"
    require(count >= FEWEST_VIDEOS, "data.held_out_share", config.data.held_out_share, rule)


@torch.no_grad()
def clip_features(
    method: Method, videos: VideoList, config: PretrainConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pooled features of the query encoder in eval mode, (V, 2, C) of two clips of each video, and the labels (V,).

    Labels are -1 where unknown; videos that cannot be decoded are left out. The networks and the random state stay as
    they were.
    """
    items = extract_rows(
        [video.path for video in videos.videos],
        lambda clips: pooled(encode(method.query_encoder, clips)),
        ClipSettings.of(config.data, num_clips=NUM_CLIPS),
        Resources(
            device=device,
            batch_size=max(NUM_CLIPS, config.optim.batch_size // (config.optim.accumulate * world_size())),
            workers=config.data.workers,
            limits=DecodeLimits.of(config.data),
        ),
    )
    with in_eval_mode(method), torch.random.fork_rng([device] if device.type == "cuda" else []):
        rows = {item.index: item.rows[:, 0] for item in items if isinstance(item, VideoRows)}
    labels = [videos.videos[place].label for place in sorted(rows)]
    features = torch.stack([rows[place] for place in sorted(rows)]) if rows else torch.empty(0, NUM_CLIPS, 0)
    return features.to(device), torch.tensor([-1 if label is None else label for label in labels], device=device)


def health_by_set(method: Method, videos: VideoList, config: PretrainConfig, device: torch.device) -> dict[str, Health]:
    """Measure each of several sets, on its part of the videos of a health check, by its name; otherwise as that one.

    Nothing where there is one set; without sets of which fewer than two videos can be decoded.
    """
    sets = videos.by_set()
    share = max(2, config.run.health_videos // max(1, len(sets)))
    run = dataclasses.replace(config.run, health_videos=share)
    found = {
        name: check_health(method, part, dataclasses.replace(config, run=run, data=data), device)
        for (name, part), data in zip(sets.items(), videos.epoch.settings(config.data), strict=False)
    }
    return {name: health for name, health in found.items() if health is not None}
