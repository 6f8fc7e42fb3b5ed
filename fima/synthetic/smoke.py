"""The small form of a recipe: every part of it runs, on synthetic videos, in a minute or two on a CPU."""

import os
from dataclasses import replace
from pathlib import Path

from fima.config import DataConfig, FinetuneConfig, OptimConfig, PretrainConfig
from fima.synthetic.motion_textures import MotionTextureSettings, make_motion_textures

NUM_TRAIN, NUM_TEST = 12, 10
BATCH_SIZE = 4
CROP_PX = 64
QUEUE_SIZE, CELL_QUEUE_SIZE = NUM_TRAIN // 4, 32


def shrink_pretrain(config: PretrainConfig, *, synthetic: bool) -> PretrainConfig:
    """Return the settings with everything cut down that costs time, and nothing switched off.

    Backbone, losses, decoder, frames, schedule and kinds of augmentation stay; number of epochs, crop size, batch,
    queues and processes do not. The data set's layout, split and lists stay unless `synthetic` videos take its place.
    """
    cells = config.method.cell_queue_size
    fewer_cells = None if cells is None else min(CELL_QUEUE_SIZE, cells)
    method = replace(config.method, queue_size=QUEUE_SIZE, cell_queue_size=fewer_cells)
    run = replace(config.run, health_videos=min(8, config.run.health_videos), log_steps=1)
    return replace(config, method=method, data=_data(config.data, synthetic), optim=_optim(config.optim), run=run)


def shrink_finetune(config: FinetuneConfig, *, synthetic: bool) -> FinetuneConfig:
    """Return the settings with everything cut down that costs time; see `shrink_pretrain`."""
    num_classes = None if synthetic else config.classifier.num_classes
    classifier = replace(config.classifier, num_classes=num_classes, low_shot=None)
    run, test = replace(config.run, log_steps=1), replace(config.test, clips=min(2, config.test.clips))
    data, optim = _data(config.data, synthetic), _optim(config.optim)
    return replace(config, classifier=classifier, data=data, optim=optim, run=run, test=test)


def _data(data: DataConfig, synthetic: bool) -> DataConfig:
    data = replace(data, dataset="auto", split=1, annotations=None) if synthetic else data
    return replace(data, crop_size=min(CROP_PX, data.crop_size or CROP_PX), workers=0)


def _optim(optim: OptimConfig) -> OptimConfig:
    processes = int(os.environ.get("WORLD_SIZE") or "1")
    batch_size = max(1, BATCH_SIZE // processes) * processes
    return replace(optim, epochs=1, batch_size=batch_size, warmup_epochs=0)


def smoke_videos(out: Path) -> Path:
    """Make the videos of a small run next to its folder, or reuse them, and return their folder."""
    folder = out.parent / "smoke-data"
    make_motion_textures(folder, MotionTextureSettings(num_train=NUM_TRAIN, num_test=NUM_TEST, camera="moving", seed=0))
    return folder
