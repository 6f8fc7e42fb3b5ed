"""What processes send each other in a training step, from shapes, and an estimate for many GPUs.

A payload is what a process hands to a collective. What it sends for it depends on the algorithm: of W processes, one
sends the share (W - 1)/W in an all-to-all, twice that in an all-reduce in a ring, and W - 1 times the payload in an
all-gather in a ring.

A test compares the formula with what two processes exchange. The estimate assumes what it is given about the network
and the GPU; nothing in it is measured.
"""

import argparse
import math
from dataclasses import dataclass

import torch

from fima.backbones.registry import build_backbone
from fima.config import DataConfig, MethodConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig
from fima.train.resolve import PUBLISHED_LARGE_CELL_QUEUE, PUBLISHED_LARGE_QUEUE
from gpu_hours import pretrain_flops
from memory import META, build_on_meta
from tables import markdown_table

MB = 1e6
BUCKET_BYTES = 25 * 2**20
"""Gradients that PyTorch sends at a time."""
INT64, FLOAT32, BFLOAT16 = 8, 4, 2
NUM_CLIPS = 2
STATISTICS = {"instance": 3, "cell": 2}
"""Scalars that are logged with each loss."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One kind of message of a step."""

    collective: str
    """Function of `torch.distributed`: `all_reduce`, `all_gather`, `broadcast` or `all_to_all_single`."""
    num_bytes: int
    """Payload of a process, of all its calls together."""
    calls: int

    def sent_bytes(self, processes: int) -> float:
        """Return what one process sends for it, on average."""
        others = processes - 1
        factors = {"all_reduce": 2 * others / processes, "all_gather": others, "broadcast": others / processes}
        return self.num_bytes * factors.get(self.collective, others / processes)


def messages(config: PretrainConfig, processes: int) -> dict[str, Message]:
    """Return what a process hands over in a step, by what it is.

    Args:
        config: the settings; `optim.batch_size` is that of one process here.
        processes: processes of the run, at least two.
    """
    batch, method, data = config.optim.batch_size, config.method, config.data
    clip = (3, data.frames, data.crop_size, data.crop_size)
    with torch.no_grad():
        encoder = build_backbone(config.model.backbone).to(META)
        feature_map = encoder(torch.empty(1, *clip, device=META))[0]
    slices, num_cells = feature_map.shape[1], feature_map[0, 0].numel()
    passes = NUM_CLIPS * (1 + method.cell_loss + 2 * method.frame_loss)
    networks, _ = build_on_meta(config)
    learning = sum(weight.numel() for weight in networks.parameters() if weight.requires_grad)
    key = batch * config.model.embedding_dim * FLOAT32
    gathers = NUM_CLIPS + method.frame_loss + NUM_CLIPS * method.cell_loss
    means = NUM_CLIPS * (1 + 2 * method.frame_loss + slices * method.cell_loss)
    scalars = 1 + method.frame_loss + method.cell_loss + STATISTICS["instance"]
    scalars += STATISTICS["cell"] * method.cell_loss
    bytes_a_value = BFLOAT16 if config.run.precision == "bf16" else FLOAT32
    pixels = batch * torch.Size(clip).numel() * (bytes_a_value if encoder.takes_bfloat16 else FLOAT32)
    features = batch * feature_map.numel() * bytes_a_value
    frame_keys = NUM_CLIPS * 2 * method.frame_loss
    cells = NUM_CLIPS * slices * num_cells * method.cell_loss

    def message(collective: str, num_bytes: int, calls: int) -> Message:
        return Message(collective=collective, num_bytes=int(num_bytes), calls=int(calls))

    return {
        "gradients": message("all_reduce", learning * FLOAT32, math.ceil(learning * FLOAT32 / BUCKET_BYTES)),
        "clips, shuffled": message("all_to_all_single", passes * pixels, passes),
        "feature maps, back": message("all_to_all_single", passes * features, passes),
        "keys for the queues": message("all_gather", (NUM_CLIPS + frame_keys) * key, NUM_CLIPS + method.frame_loss),
        "cells": message("all_gather", cells * key, NUM_CLIPS * method.cell_loss),
        "numbers of rows": message("all_gather", (passes + gathers) * INT64, passes + gathers),
        "orders of the shuffle": message("broadcast", passes * processes * batch * INT64, passes),
        "counts of the means": message("all_reduce", means * INT64, means),
        "logged figures": message("all_reduce", scalars * FLOAT32, 1),
    }


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the estimate assumes."""

    gigabytes_a_second: float
    """What a GPU sends to the others at a time."""
    latency_seconds: float
    """Of one hop of a collective; an all-gather in a ring has W - 1 of them, the others log2 W."""
    tflops: float
    """What a GPU reaches."""

    def seconds(self, message: Message, processes: int) -> float:
        """Return how long a kind of message takes."""
        hops = processes - 1 if message.collective == "all_gather" else math.ceil(math.log2(processes))
        transfer = message.sent_bytes(processes) / (self.gigabytes_a_second * 1e9)
        return transfer + message.calls * hops * self.latency_seconds


def estimate(config: PretrainConfig, machine: Machine) -> str:
    """Return a table of the step's parts for ever more processes; no communication overlaps with computation."""
    compute = pretrain_flops(config) * config.optim.batch_size / (machine.tflops * 1e12)
    rows = []
    for processes in (2, 8, 16, 64):
        found = messages(config, processes)
        sent = sum(message.sent_bytes(processes) for message in found.values()) / MB
        taken = sum(machine.seconds(message, processes) for message in found.values())
        share = compute / (compute + taken)
        rows.append([str(processes), f"{sent:.0f}", f"{1000 * compute:.0f}", f"{1000 * taken:.0f}", f"{share:.2f}"])
    header = ["processes", "MB sent a process and step", "computation, ms", "communication, ms", "share of ideal"]
    return markdown_table(header, rows)


def main() -> None:
    """Print what is sent, and the estimate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="i3d")
    parser.add_argument("--batch-size", type=int, default=8, help="videos of a process")
    parser.add_argument("--crop-size", type=int, default=224)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--gigabytes-a-second", type=float, default=25, help="a network port of 200 Gbit/s a GPU")
    parser.add_argument("--latency-us", type=float, default=20)
    parser.add_argument("--peak-tflops", type=float, default=312, help="peak of the GPU in bfloat16 (A100: 312)")
    parser.add_argument("--utilisation", type=float, default=0.25, help="assumed share of the peak that is reached")
    arguments = parser.parse_args()
    config = PretrainConfig(
        model=ModelConfig(backbone=arguments.backbone),
        method=MethodConfig(queue_size=PUBLISHED_LARGE_QUEUE, cell_queue_size=PUBLISHED_LARGE_CELL_QUEUE),
        data=DataConfig(crop_size=arguments.crop_size),
        optim=OptimConfig(batch_size=arguments.batch_size),
        run=RunConfig(precision="bf16"),
    )
    rows = [
        [
            what,
            message.collective,
            f"{message.num_bytes / MB:.3f}",
            f"{message.sent_bytes(arguments.processes) / MB:.1f}",
        ]
        for what, message in messages(config, arguments.processes).items()
    ]
    print(markdown_table(["what", "collective", "payload, MB", f"sent of {arguments.processes} processes, MB"], rows))
    machine = Machine(
        gigabytes_a_second=arguments.gigabytes_a_second,
        latency_seconds=arguments.latency_us / 1e6,
        tflops=arguments.peak_tflops * arguments.utilisation,
    )
    print(f"\nAn estimate, no measurement, with {machine}:\n")
    print(estimate(config, machine))


if __name__ == "__main__":
    main()
