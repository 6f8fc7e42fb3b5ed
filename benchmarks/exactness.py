"""How far a step in float32 is from the same step in float64, by how tensors lie in memory.

Losses and gradients of one step of FIMA at odd sizes, default weights and random clips: the largest deviation of the
three losses, and the median one of the norms of gradients, relative. Beside them stand the encoders as they are usually
written (`textbook.py`), in PyTorch's default memory format. Training steps amplify rounding through batch norm over few
cells, so figures of one shape vary with the seed; `--seeds` takes medians.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import nn

from fima.backbones.i3d import I3D
from fima.config import MethodConfig, ModelConfig
from fima.method.fima import FIMA
from fima.method.inputs import VIEWS, ClipInputs
from textbook import TextbookI3D

BACKBONES = ("i3d", "r2plus1d_18")
SHAPES = {"i3d": ((2, 16, 57, 75), (2, 16, 75, 91)), "r2plus1d_18": ((2, 16, 35, 43), (2, 16, 43, 51))}
"""Clips, frames, height and width in pixels."""
QUEUE_SIZE = 300


def as_usual(network: FIMA) -> None:
    """Give I3D's encoders the form in which they are usually written; torchvision's have it."""
    for name in ("query_encoder", "key_encoder"):
        encoder = getattr(network, name)
        if isinstance(encoder, I3D):
            setattr(network, name, TextbookI3D(encoder))


def channels_last(network: nn.Module) -> None:
    """Bring the weights, and so the feature maps, to the memory format of `--run.memory-format channels_last`."""
    network.to(memory_format=torch.channels_last_3d)


FORMS: dict[str, Callable[[FIMA], None]] = {
    "as usually written": as_usual,
    "contiguous": lambda network: None,
    "channels last": channels_last,
}


def step(
    backbone: str,
    shape: tuple[int, ...],
    seed: int,
    dtype: torch.dtype,
    change: Callable[[FIMA], None] = lambda _: None,
) -> tuple[list[float], list[float]]:
    """Return the losses, and the norms of the gradients in the order of the weights, of one step."""
    torch.manual_seed(seed)
    model = ModelConfig(backbone=backbone, decoder_dropout=0.0)
    network = FIMA(model, MethodConfig(queue_size=QUEUE_SIZE, cell_queue_size=QUEUE_SIZE)).to(dtype).train()
    change(network)
    batch_size, *size = shape
    clips = []
    for _ in range(2):
        views = {view: torch.randn(batch_size, 3, *size).to(dtype) for view in VIEWS}
        corners = torch.rand(batch_size, 4).to(dtype) * 0.3 + torch.tensor([0, 0, 0.7, 0.7], dtype=dtype)
        clips.append(ClipInputs(views=views, box=corners))
    losses = network(*clips)
    torch.autograd.backward(losses.total)
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    return [part.item() for part in losses.parts.values()], [gradient.norm().item() for gradient in gradients]


def deviations(backbone: str, shape: tuple[int, ...], seed: int) -> dict[str, tuple[float, float]]:
    """Return, by form, how far the losses and the norms of gradients are from those in float64."""
    losses, norms = step(backbone, shape, seed, torch.float64)
    found = {}
    for form, change in FORMS.items():
        rounded = step(backbone, shape, seed, torch.float32, change)
        of_losses = max(abs(a - b) for a, b in zip(rounded[0], losses, strict=True))
        of_norms = statistics.median(abs(a - b) / b for a, b in zip(rounded[1], norms, strict=True))
        found[form] = (of_losses, of_norms)
    return found


def main() -> None:
    """Print a line for each backbone, shape and form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    arguments = parser.parse_args()
    for backbone in arguments.backbones:
        for shape in SHAPES[backbone]:
            by_seed = [deviations(backbone, shape, seed) for seed in arguments.seeds]
            for form in FORMS:
                losses, norms = (statistics.median(each[form][i] for each in by_seed) for i in (0, 1))
                size = "x".join(map(str, shape))
                print(f"{backbone:12} {size:12} {form:20} losses {losses:.1e}  gradient norms {norms:.1e}", flush=True)


if __name__ == "__main__":
    main()
