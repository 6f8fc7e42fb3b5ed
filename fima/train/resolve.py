"""Settings that follow from the machine and the data: precision, queue sizes; and what looks unwise."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch

from fima.config import MethodConfig, PretrainConfig
from fima.config.method import LIGHT
from fima.data.datasets import VideoList
from fima.data.layouts.folder import HELD_OUT
from fima.data.layouts.video_list import counted
from fima.recipe import RunSettings
from fima.torch_tools import distributed

FIRST_GPUS_WITH_BFLOAT16 = (8, 0)
PUBLISHED_LARGE_SET_VIDEOS = 200_000
PUBLISHED_LARGE_QUEUE = 65_536
PUBLISHED_LARGE_CELL_QUEUE = 31_360
PUBLISHED_UCF101_QUEUE_SHARE = 2_240 / 9_537
MOST_OWN_KEYS = 5
"""With four keys of each video in the queue (256 of 60 videos), neighbours still gained; without them was not tried."""


def published_queue_sizes(num_videos: int) -> tuple[int, int]:
    """Return keys of RGB and motion queue, and cells of the dense one, as published, carried over to `num_videos`."""
    if num_videos >= PUBLISHED_LARGE_SET_VIDEOS:
        return PUBLISHED_LARGE_QUEUE, PUBLISHED_LARGE_CELL_QUEUE
    return max(1, round(num_videos * PUBLISHED_UCF101_QUEUE_SHARE)), 0


def with_queue_sizes(config: PretrainConfig, num_videos: int) -> PretrainConfig:
    """Return the settings with the published queue sizes instead of None."""
    published = zip(("queue_size", "cell_queue_size"), published_queue_sizes(num_videos), strict=True)
    sizes: dict[str, Any] = {name: size for name, size in published if getattr(config.method, name) is None}
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **sizes))


def with_cost(config: PretrainConfig) -> PretrainConfig:
    """Return the settings with those that `method.cost` `light` stands for, and say which given ones it replaces."""
    method = config.method
    if method.cost == "full":
        return config
    given = {name: getattr(method, name) for name in LIGHT if getattr(method, name) != getattr(MethodConfig(), name)}
    replaced = [f"{name} {LIGHT[name]} (not {value})" for name, value in given.items() if value != LIGHT[name]]
    if replaced and distributed.is_main():
        print(f"--method.cost light: {', '.join(replaced)}")
    return dataclasses.replace(config, method=dataclasses.replace(method, **LIGHT))


def with_precision(config: RunSettings, device: torch.device) -> RunSettings:
    """Return the settings with the fast precision of all devices instead of `auto`, so that the run keeps it."""
    if config.run.precision != "auto":
        return config
    precision: Literal["fp32", "bf16"] = "fp32" if distributed.any_process(not computes_in_bfloat16(device)) else "bf16"
    return dataclasses.replace(config, run=dataclasses.replace(config.run, precision=precision))


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is an instruction of the device; elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_GPUS_WITH_BFLOAT16
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def layout_in_words(videos: VideoList) -> str:
    """Return the layout, and how to train on the videos that it leaves out."""
    leaves_some_out = videos.split == "train" and videos.layout.endswith(HELD_OUT)
    return f"{videos.layout}; --data.part all trains on these, too" if leaves_some_out else videos.layout


def warnings_about(config: PretrainConfig, videos: VideoList) -> list[str]:
    """Return what looks unwise about a run, one sentence each."""
    found, plan = videos.warnings(), videos.epoch
    number, what = plan.num_samples, "videos" if plan.is_plain else "samples of an epoch"
    batch, queue = config.optim.batch_size, config.method.queue_size or 0
    if batch > number:
        remedy = f"each step sees all of them, choose {number} or less"
        found.append(f"--optim.batch-size {batch}: more than the {number} {what}; {remedy}")
    parts, share = config.model.split_bn, batch // (config.optim.accumulate * distributed.world_size())
    if 1 < parts > share // 2:
        each = f"each process has {counted(share, 'video')} in a part of a step"
        found.append(f"--model.split-bn {parts}: {each}, so that batch norm sees {max(1, share // 2)} parts of them")
    if queue >= MOST_OWN_KEYS * number and not config.method.exclude_same_video:
        found.append(
            f"--method.queue-size {queue}: {queue / number:.0f} times the {number} {what}, so it holds a video's own "
            f"old keys as false negatives; the paper's share is {published_queue_sizes(number)[0]}, and "
            "--method.exclude-same-video leaves such keys out"
        )
    weight = config.method.instance_weight
    if config.method.name == "moco" and config.optim.name == "sgd" and weight != 1:
        found.append(
            f"--method.instance-weight {weight:g}: MoCo has this loss alone, so that its learning rate is {weight:g} "
            "times the given one"
        )
    return found
