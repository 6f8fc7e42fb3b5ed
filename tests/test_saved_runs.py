"""Runs that an earlier version began are resumed: same file format, same losses; see saved_runs/README.md."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fima
from fima.backbones.registry import BACKBONES
from fima.config import FinetuneConfig, PretrainConfig
from fima.recipe import read_recipe
from fima.train.finetune import finetune
from fima.train.pretrain import pretrain
from tests.small_runs import make_videos, read_lines

SAVED_RUNS = Path(__file__).with_name("saved_runs")
EXPECTED = json.loads((SAVED_RUNS / "expected.json").read_text())


class TwoLayers(nn.Module):
    """A backbone of 1,200 weights, so that the files are small."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 4, 3, (1, 4, 4), padding=1, bias=False),
            nn.BatchNorm3d(4),
            nn.ReLU(),
            nn.Conv3d(4, 8, 3, 2, padding=1, bias=False),
            nn.BatchNorm3d(8),
            nn.ReLU(),
        )

    def forward(self, clip: Tensor) -> Tensor:
        features: Tensor = self.layers(clip)
        return features


def resume_pretraining(videos: Path, out: Path) -> None:
    # In the other format sums are rounded otherwise, which can move a cell across the median of the foreground.
    config = read_recipe(out / "config.yaml", PretrainConfig)
    config = replace(config, run=replace(config.run, memory_format="channels_last"))
    pretrain(config, data=videos, out=out, resume=True)


def resume_finetuning(videos: Path, out: Path) -> None:
    finetune(read_recipe(out / "config.yaml", FinetuneConfig), pretrained=None, data=videos, out=out, resume=True)


@pytest.mark.parametrize(("kind", "resume"), [("pretrain", resume_pretraining), ("finetune", resume_finetuning)])
def test_a_run_of_an_earlier_version_goes_on_with_the_same_losses(
    kind: str, resume: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BACKBONES, "registered", {})
    fima.register_backbone("two_layers", TwoLayers)
    run = Path(shutil.copytree(SAVED_RUNS / kind, tmp_path / "run"))
    resume(make_videos(tmp_path / "videos"), run)
    for name, expected in EXPECTED[kind].items():
        lines = [line for line in read_lines(run / "metrics.jsonl", name) if line["step"] > 3]
        for line, wanted in zip(lines, expected, strict=True):
            # Rounding differs between processors; momenta that were lost would move a loss by more than 1e-3.
            assert {key: line[key] for key in wanted} == pytest.approx(wanted, rel=1e-4)
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["progress"]["step"] == 6
