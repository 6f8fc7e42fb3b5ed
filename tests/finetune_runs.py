"""Fine-tuning runs that take seconds: a few synthetic videos, the tiny backbone, 32 pixels, 4 frames."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fima.checkpoints.checkpoint import ClassifierCheckpoint, load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.config import ClassifierConfig, DataConfig, FinetuneConfig, OptimConfig, RunConfig, TestConfig
from fima.train.finetune import finetune
from fima.train.pretrain import pretrain
from tests.small_runs import with_settings

SMALL = FinetuneConfig(
    classifier=ClassifierConfig(backbone="tiny", num_classes=2, dropout=0.5),
    data=DataConfig(frames=4, crop_size=32, blur=0.0, workers=0),
    optim=OptimConfig(epochs=2, batch_size=4, lr=0.05, schedule="step", milestones=(1,)),
    run=RunConfig(device="cpu", precision="fp32", log_steps=1),
    test=TestConfig(clips=2, ori_resolution=None, every_epochs=1),
)


def changed(section: str, config: FinetuneConfig = SMALL, **values: Any) -> FinetuneConfig:  # noqa: ANN401
    """The small settings with some of one section changed."""
    return replace(config, **{section: replace(getattr(config, section), **values)})


FROZEN = changed("classifier", freeze=True, dropout=0.0)


def pretrain_once(videos: Path, out: Path) -> Path:
    """Pre-train the tiny backbone for one epoch and return the checkpoint."""
    run = RunFolder(out)
    pretrain(with_settings("run", with_settings("optim", epochs=1), health_epochs=0), data=videos, out=run.root)
    return run.last


def after(videos: Path, out: Path, config: FinetuneConfig = SMALL, start: Path | None = None) -> ClassifierCheckpoint:
    """The last checkpoint of a whole run."""
    finetune(config, pretrained=start, data=videos, out=out)
    return load_checkpoint(RunFolder(out).last, ClassifierCheckpoint)
