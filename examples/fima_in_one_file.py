"""FIMA in one file: fine-grained motion alignment for contrastive video representation learning (arXiv 2309.00297).

An encoder learns from unlabelled videos, by three contrastive losses between two clips of each video:
- instance: the clips find each other among the clips of other videos (this alone is MoCo);
- frame: each clip predicts how the other one moves, in its first and in its second half;
- cell: each clip predicts how the other one moves at every place of the feature map that is foreground in both.

    fima make-data motion-textures textures --num-train 120 --num-test 60
    python examples/fima_in_one_file.py textures

On 120 synthetic videos of ten motions, the nearest neighbours tell the class of 8.3 % of the 60 test videos with random
weights, and of 25.0 % after the 20 epochs (chance: 10 %; 6 minutes on one CPU core).

The package `fima` computes the same losses (tests/test_fima_in_one_file.py). What it adds: exact resuming, data sets,
I3D and other encoders, several GPUs, bfloat16, evaluation, and videos that are broken.

Letters: B batch, T frames, H W pixels; C t h w the feature map, N = h·w cells; D embedding; K queue; τ temperature.
"""

import argparse
import copy
import functools
import math
import random
import time
from pathlib import Path

import av
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torchvision.transforms import RandomResizedCrop, v2

# Small, for two CPU cores. The paper: 16 frames of 224 px, batch 64, queue 65,536, m = 0.999, all weights 1.
FRAMES, SIZE, BATCH, QUEUE, DIM = 8, 64, 20, 140, 128
LR, MOMENTUM, TAU, POS_RATIO = 0.03, 0.99, 0.1, 0.7
WEIGHTS = {"instance": 0.05, "frame": 1.0, "cell": 1.0}
MEAN, STD = [0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]

# --- Data: two clips of a video, four tensors each --------------------------------------------------------------------


@functools.cache
def read_video(path: Path) -> Tensor:
    """All frames, uint8 (T, 3, H, W)."""
    with av.open(str(path)) as container:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return torch.stack(frames).permute(0, 3, 1, 2)


def frame_difference(clip: Tensor) -> Tensor:
    """Change since the frame before, in [0, 1]; the first frame follows the last one (paper, motion input)."""
    return (clip - clip.roll(1, dims=0) + 1) / 2


def crop(clip: Tensor) -> tuple[Tensor, Tensor]:
    """The same random crop and flip for all frames, and where it lies in the frame: (x0, y0, x1, y1) in [0, 1]."""
    height, width = clip.shape[-2:]
    top, left, h, w = RandomResizedCrop.get_params(clip, scale=[0.4, 1.0], ratio=[3 / 4, 4 / 3])
    view = v2.functional.resized_crop(clip, top, left, h, w, [SIZE, SIZE], antialias=False)
    x0, x1 = left / (width - 1), (left + w - 1) / (width - 1)
    y0, y1 = top / (height - 1), (top + h - 1) / (height - 1)
    if random.random() < 0.5:
        return view.flip(-1), torch.tensor([x1, y0, x0, y1])  # cells of a mirrored view lie mirrored in the frame
    return view, torch.tensor([x0, y0, x1, y1])


colour = v2.Compose(  # given frames (T, 3, H, W), it changes all of them alike
    [
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        v2.RandomApply([v2.GaussianBlur(int(0.1 * SIZE) // 2 * 2 + 1, (0.1, 2.0))], 0.5),
        v2.Normalize(MEAN, STD),
    ]
)


def sample_clip(video: Tensor) -> dict[str, Tensor]:
    """Views of a random window of 2·FRAMES frames, each cropped and coloured on its own (paper, implementation)."""
    start = random.randrange(max(1, len(video) - 2 * FRAMES + 1))
    window = video[[(start + i) % len(video) for i in range(2 * FRAMES)]] / 255
    full, box = crop(window[::2])
    early, late = crop(window[:FRAMES])[0], crop(window[FRAMES:])[0]
    # Differences are taken before the colours change.
    views = {"full": full, "full_difference": frame_difference(full)}
    views |= {"early_difference": frame_difference(early), "late_difference": frame_difference(late)}
    return {name: colour(view).transpose(0, 1) for name, view in views.items()} | {"box": box}


def sample_batch(videos: list[Tensor]) -> dict[str, Tensor]:
    """One clip of each video: views (B, 3, T, H, W), boxes (B, 4)."""
    clips = [sample_clip(video) for video in videos]
    return {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}


# --- Networks ---------------------------------------------------------------------------------------------------------


def small_encoder() -> nn.Sequential:
    """(B, 3, T, H, W) → (B, 512, T/4, H/16, W/16). The paper has I3D and R(2+1)D; any such network does."""
    layers: list[nn.Module] = [nn.GroupNorm(1, 3, eps=1e-4, affine=False)]
    sizes = [(3, 16, 3, 1, 2), (16, 32, 3, 1, 2), (32, 64, 3, 2, 2), (64, 128, 3, 2, 2), (128, 512, 1, 1, 1)]
    for before, after, kernel, in_time, in_space in sizes:
        stride = (in_time, in_space, in_space)
        layers += [nn.Conv3d(before, after, kernel, stride, kernel // 2, bias=False)]
        layers += [nn.BatchNorm3d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class DecoderLayer(nn.Module):
    """Cross-attention and feed-forward, pre-norm, without self-attention (paper, motion decoder)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Tokens (B, M, dim) that have looked at the memory (B, N, dim)."""
        attended, _ = self.attention(self.attention_norm(tokens), memory, memory, need_weights=False)
        tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))  # type: ignore[no-any-return]


def positional_code(length: int, dim: int) -> Tensor:
    """Sines and cosines, (length, dim)."""
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def cells(features: Tensor) -> Tensor:
    """Feature vectors slice by slice: (B, C, t, h, w) → (B, t, N, C)."""
    return features.flatten(3).permute(0, 2, 3, 1)


class FIMA(nn.Module):
    """The networks and the queues; a call computes the three losses of a step.

    Args:
        encoder: (B, 3, T, H, W) → (B, channels, 2, h, w).
        channels: C.
        decoder_dim: width of the motion decoder.
        dropout: in the motion decoder.
    """

    def __init__(self, encoder: nn.Module, channels: int = 512, decoder_dim: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.query_encoder = encoder
        self.projector = nn.Sequential(nn.Linear(channels, 256), nn.ReLU(), nn.Linear(256, DIM))
        self.key_encoder = copy.deepcopy(self.query_encoder).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.reduce, self.expand = nn.Linear(channels, decoder_dim), nn.Linear(decoder_dim, channels)
        self.decoder = nn.ModuleList(DecoderLayer(decoder_dim, 4, dropout) for _ in range(2))
        self.cls_token = nn.Parameter(torch.randn(1, 1, decoder_dim) * 0.02)
        self.queue, self.motion_queue = (normalize(torch.randn(QUEUE, DIM), dim=1) for _ in range(2))  # (K, D)

    @torch.no_grad()
    def key_pass(self, clip: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the other clip has to find: k (B, D), early and late motion (B, D), cells (B, t, N, D), foreground."""

        def embed(features: Tensor) -> Tensor:
            return normalize(self.key_projector(features), dim=-1)

        full, motion = self.key_encoder(clip["full"]), self.key_encoder(clip["full_difference"])
        early, late = self.key_encoder(clip["early_difference"]), self.key_encoder(clip["late_difference"])
        # Foreground sampling: cells that are more active than the median one, in RGB and in motion together.
        activation = full.mean(dim=(1, 2)) + motion.mean(dim=(1, 2))
        return {
            "instance": embed(full.mean(dim=(2, 3, 4))),
            "early": embed(early.mean(dim=(2, 3, 4))),
            "late": embed(late.mean(dim=(2, 3, 4))),
            "cells": embed(cells(motion)),
            "mask": activation > activation.flatten(1).median(dim=1).values[:, None, None],
        }

    def predict(self, features: Tensor, other: Tensor) -> Tensor:
        """Motion of the other clip (paper, motion decoder): (B, 2, 1 + N, D), of each slice as a whole, and by cell.

        In each temporal slice, a clip's tokens look at the other clip's tokens of the same slice.
        """
        tokens, memory = (self.reduce(cells(clip)).flatten(0, 1) for clip in (features, other))
        code = positional_code(*tokens.shape[1:]).to(tokens)
        decoded = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens + code], dim=1)
        for layer in self.decoder:
            decoded = layer(decoded, memory + code)
        return normalize(self.projector(self.expand(decoded)), dim=-1).view(len(features), 2, -1, DIM)

    def forward(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of one step; the keys move first, and enter the queues as they are used."""
        with torch.no_grad():  # k ← m·k + (1 - m)·q
            for key, query in ((self.key_encoder, self.query_encoder), (self.key_projector, self.projector)):
                for k, q in zip(key.parameters(), query.parameters(), strict=True):
                    k.lerp_(q, 1 - MOMENTUM)
        key_a, key_b = self.key_pass(a), self.key_pass(b)
        map_a, map_b = self.query_encoder(a["full"]), self.query_encoder(b["full"])

        # Instance discrimination. In the published order, q_b meets its own clip's key k_b among the negatives.
        query_a, query_b = (normalize(self.projector(x.mean(dim=(2, 3, 4))), dim=1) for x in (map_a, map_b))
        instance = info_nce(query_a, key_b["instance"], self.queue)
        self.queue = torch.cat([self.queue, key_b["instance"]])[-QUEUE:]
        instance = (instance + info_nce(query_b, key_a["instance"], self.queue)) / 2
        self.queue = torch.cat([self.queue, key_a["instance"]])[-QUEUE:]

        # Frame-level motion. Slice 0 predicts the early difference of the other clip, slice 1 the late one; negatives
        # are the three other kinds of key of the batch, and the motion queue.
        of_b, of_a = self.predict(map_a, map_b), self.predict(map_b, map_a)
        predictions = [of_b[:, 0, 0], of_b[:, 1, 0], of_a[:, 0, 0], of_a[:, 1, 0]]
        keys = [key_b["early"], key_b["late"], key_a["early"], key_a["late"]]
        negatives = [torch.cat([*keys[:i], *keys[i + 1 :], self.motion_queue]) for i in range(4)]
        frame = torch.stack([info_nce(*each) for each in zip(predictions, keys, negatives, strict=True)]).mean()
        self.motion_queue = torch.cat([self.motion_queue, *keys])[-QUEUE:]

        # Pixel-level motion: each slice, in both directions. (For Kinetics there is a queue of cells as well.)
        pairs = positive_pairs(a["box"], b["box"], key_a["mask"], key_b["mask"])
        directions = ((of_b, key_b["cells"], pairs), (of_a, key_a["cells"], pairs.transpose(1, 2)))
        cell = torch.stack([cell_loss(p[:, s, 1:], k, s, pos) for p, k, pos in directions for s in (0, 1)]).mean()
        return {"instance": instance, "frame": frame, "cell": cell}


# --- Losses -----------------------------------------------------------------------------------------------------------


def info_nce(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    """-log exp(q·k/τ) / (exp(q·k/τ) + Σ_n exp(q·n/τ)) of (B, D), (B, D), (K, D), averaged over the batch."""
    logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ negatives.T], dim=1) / TAU
    return cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


def positive_pairs(box_a: Tensor, box_b: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
    """Cells that show the same foreground of the scene, bool (B, N, N) (paper, pixel-level motion).

    Their centres in the frame are closer than POS_RATIO of the larger cell's diagonal, and both are foreground.
    """
    height, width = mask_a.shape[1:]
    centres, diagonals = [], []
    for x0, y0, x1, y1 in (box_a[:, :, None].unbind(1), box_b[:, :, None].unbind(1)):
        x = x0 + (torch.arange(width) + 0.5) / width * (x1 - x0)
        y = y0 + (torch.arange(height) + 0.5) / height * (y1 - y0)
        centres.append(torch.stack([x.repeat(1, height), y.repeat_interleave(width, dim=1)], dim=2))
        diagonals.append(torch.hypot((x1 - x0) / width, (y1 - y0) / height)[:, :, None])
    distance = (centres[0][:, :, None] - centres[1][:, None]).norm(dim=3)
    near: Tensor = distance / torch.maximum(*diagonals) < POS_RATIO
    return near & mask_a.flatten(1)[:, :, None] & mask_b.flatten(1)[:, None]


def cell_loss(predictions: Tensor, keys: Tensor, index: int, pairs: Tensor) -> Tensor:
    """-log(Σ_positives exp(p·k/τ) / Σ_all exp(p·k/τ)) of the cells that have a positive; 0 where none has.

    Args:
        predictions: of one temporal slice, (B, N, D).
        keys: motion cells of all slices, (B, t, N, D): those of the whole batch are in the denominator.
        index: which slice has the positives.
        pairs: which cells are positives, (B, N, N).
    """
    positives = ((predictions @ keys[:, index].transpose(1, 2) / TAU).exp() * pairs).sum(dim=2)
    everything = (predictions @ keys.flatten(0, 2).T / TAU).exp().sum(dim=2)
    found = pairs.any(dim=2)
    losses = [-(p[f] / e[f]).log().mean() for p, e, f in zip(positives, everything, found, strict=True) if f.any()]
    return torch.stack(losses).mean() if losses else predictions.sum() * 0


# --- Training, and what has been learned ------------------------------------------------------------------------------


@torch.no_grad()
def knn_accuracy(encoder: nn.Module, train: list[Path], test: list[Path], neighbours: int = 5) -> float:
    """Share of the test videos whose nearest training videos, by cosine, vote for their class, the folder's name."""
    encoder.eval()

    def feature(path: Path) -> Tensor:
        window = v2.functional.resize(read_video(path)[: 2 * FRAMES : 2], [SIZE, SIZE], antialias=False)
        clip = v2.functional.normalize(window / 255, MEAN, STD).transpose(0, 1)[None]
        return normalize(encoder(clip).mean(dim=(0, 2, 3, 4)), dim=0)

    known, labels = torch.stack([feature(path) for path in train]), [path.parent.name for path in train]
    correct = 0
    for path in test:
        votes = [labels[i] for i in (known @ feature(path)).topk(neighbours).indices]
        correct += max(votes, key=votes.count) == path.parent.name
    encoder.train()
    return correct / len(test)


def main() -> None:
    """Pre-train on the training videos, and compare features before and after."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path, help="folder of videos")
    parser.add_argument("--train", default="data/*/*_train_*.avi", help="which are for training; labels play no part")
    parser.add_argument("--test", default="data/*/*_test_?????.avi", help="which are for testing")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    train, test = (sorted(arguments.root.glob(pattern)) for pattern in (arguments.train, arguments.test))
    network = FIMA(small_encoder())
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(learning, LR, momentum=0.9, weight_decay=1e-4)
    print(f"{len(train)} videos; kNN of random weights {knn_accuracy(network.query_encoder, train, test):.1%}")
    for epoch in range(arguments.epochs):
        start = time.time()
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * epoch / arguments.epochs)) / 2
        order = random.sample(train, len(train))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            videos = [read_video(path) for path in order[first : first + BATCH]]
            losses = network(sample_batch(videos), sample_batch(videos))
            total = torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()
        shown = ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
        print(f"epoch {epoch + 1}: {shown} ({time.time() - start:.0f} s)", flush=True)
    print(f"kNN after training {knn_accuracy(network.query_encoder, train, test):.1%}")


if __name__ == "__main__":
    main()
