from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fima.config import MethodConfig
from fima.errors import ConfigError
from fima.recipe import read_recipe
from fima.train.pretrain import pretrain
from fima.train.resolve import with_cost
from tests.small_runs import SMALL_CONFIG, read_lines, with_settings

FOUR_FLAGS: dict[str, Any] = {"instance_weight": 0.0, "decoder": False, "foreground": False, "local_stride": 2}


def test_light_is_its_four_settings_and_the_run_records_them(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_settings("run", with_settings("optim", epochs=1), health_epochs=0)
    light = with_settings("method", config, cost="light", instance_weight=0.05)
    pretrain(light, data=videos, out=tmp_path / "light")
    assert "--method.cost light: instance_weight 0.0 (not 0.05)" in capsys.readouterr().out
    pretrain(with_settings("method", config, **FOUR_FLAGS), data=videos, out=tmp_path / "flags")
    losses = [
        [line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl", "step")] for name in ("light", "flags")
    ]
    assert losses[0] == losses[1]
    recorded = read_recipe(tmp_path / "light" / "config.yaml")
    assert recorded.method == replace(light.method, **FOUR_FLAGS)
    assert with_cost(recorded) == recorded
    assert "--method.cost light" not in capsys.readouterr().out


def test_full_changes_nothing_and_light_is_not_for_moco() -> None:
    assert with_cost(SMALL_CONFIG) is SMALL_CONFIG
    with pytest.raises(ConfigError, match=r"--method.cost light: is for the method `fima`"):
        MethodConfig(name="moco", cost="light")
