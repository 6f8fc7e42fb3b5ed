"""How much work each recipe is: operations of real forward and backward passes, and the GPU-hours computed from them.

PyTorch's counter counts the convolutions and products of one training step on the CPU; a run is that, per video, times
videos times epochs. The hours assume a share of a GPU's peak, which is an assumption, not a measurement, and is printed
with the table.
"""

import argparse
import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from fima.backbones.registry import build_backbone
from fima.benchmark.machine import NUM_VIDEOS
from fima.config import FinetuneConfig, PretrainConfig
from fima.method.fima import FIMA
from fima.method.inputs import VIEWS, ClipInputs
from fima.recipe import RECIPES, read_recipe, read_yaml
from tables import markdown_table

COUNTED_CROP_PX = 112
"""Counted at this size where the recipe's is a multiple of it, and scaled by the area: every layer is convolutional."""


def pretrain_flops(config: PretrainConfig) -> float:
    """Return the operations of one training step per video."""
    sizes = dataclasses.replace(config.method, cell_queue_size=config.method.cell_queue_size or 0)
    method = FIMA(config.model, sizes).train()
    size = COUNTED_CROP_PX
    box = torch.tensor([[0.1, 0.1, 0.9, 0.9]]).repeat(2, 1)
    clip = ClipInputs(views={view: torch.randn(2, 3, config.data.frames, size, size) for view in VIEWS}, box=box)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(method(clip, clip).total)
    return float(counter.get_total_flops()) / 2 * (config.data.crop_size / size) ** 2


def finetune_flops(config: FinetuneConfig, backbone: str) -> float:
    """Return the operations of one training step per video."""
    encoder = build_backbone(backbone).train()
    clips = torch.randn(2, 3, config.data.frames, COUNTED_CROP_PX, COUNTED_CROP_PX)
    with FlopCounterMode(display=False) as counter:
        if config.classifier.freeze:
            with torch.no_grad():
                encoder(clips)
        else:
            torch.autograd.backward(encoder(clips).mean())
    return float(counter.get_total_flops()) / 2 * (config.data.crop_size / COUNTED_CROP_PX) ** 2


def main() -> None:
    """Print one row a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak-tflops", type=float, default=312, help="peak of the GPU in bfloat16 (A100: 312)")
    parser.add_argument("--utilisation", type=float, default=0.25, help="assumed share of the peak that is reached")
    parser.add_argument("--backbone", default="i3d", help="encoder of the fine-tuning and linear recipes")
    arguments = parser.parse_args()
    rows = []
    for path in sorted(RECIPES.glob("*.yaml")):
        dataset = read_yaml(path).get("data", {}).get("dataset")
        if dataset not in NUM_VIDEOS:
            continue
        videos = NUM_VIDEOS[dataset]
        if "classifier" in read_yaml(path):
            finetune = read_recipe(path, FinetuneConfig)
            per_video, epochs = finetune_flops(finetune, arguments.backbone), finetune.optim.epochs
        else:
            config = read_recipe(path)
            per_video, epochs = pretrain_flops(config), config.optim.epochs
        total = per_video * videos * epochs
        hours = total / (arguments.peak_tflops * 1e12 * arguments.utilisation) / 3600
        rows.append(
            [path.name, f"{per_video / 1e9:.0f}", f"{videos:,}", str(epochs), f"{total / 1e18:.2f}", f"{hours:.1f}"]
        )
    header = ["recipe", "GFLOP a video and step", "videos", "epochs", "EFLOP in all", "GPU-hours"]
    print(markdown_table(header, rows))
    print(f"\nat {arguments.utilisation:.0%} of {arguments.peak_tflops:g} TFLOP/s: an assumption, not a measurement")


if __name__ == "__main__":
    main()
