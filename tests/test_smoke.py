import json
from pathlib import Path

import pytest

from fima.cli import main
from fima.config import FinetuneConfig
from fima.recipe import flatten, read_recipe, read_yaml
from fima.synthetic.smoke import shrink_finetune, shrink_pretrain
from tests.layout_files import write_videos

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
FINETUNE = sorted(path.name for path in RECIPES.glob("*.yaml") if "classifier" in read_yaml(path))
PRETRAIN = sorted(path.name for path in RECIPES.glob("*.yaml") if path.name not in FINETUNE)
REPRESENTATIVES = ["ucf101_i3d_fima.yaml", "k400_r2plus1d_18_moco.yaml"]
"""One recipe of each backbone and of each method; the others differ from them in numbers only."""


@pytest.mark.parametrize("name", PRETRAIN)
def test_the_small_form_switches_nothing_off(name: str) -> None:
    config = read_recipe(RECIPES / name)
    small, before = flatten(shrink_pretrain(config, synthetic=True)), flatten(config)
    changed = {flag for flag in small if small[flag] != before[flag]}
    assert changed <= {
        "method.queue_size", "method.cell_queue_size", "data.dataset", "data.crop_size", "data.workers",
        "optim.epochs", "optim.batch_size", "optim.warmup_epochs", "run.health_videos", "run.log_steps",
    }  # fmt: skip
    assert bool(small["method.cell_queue_size"]) == bool(before["method.cell_queue_size"])


@pytest.mark.parametrize("name", FINETUNE)
def test_the_small_form_of_fine_tuning_trains_the_same_weights(name: str) -> None:
    config = read_recipe(RECIPES / name, FinetuneConfig)
    small = shrink_finetune(config, synthetic=True)
    assert small.classifier.freeze == config.classifier.freeze
    assert small.optim.lr == config.optim.lr
    assert small.optim.epochs == 1


def test_there_is_a_recipe_for_every_row() -> None:
    assert {"ucf101_i3d_moco.yaml", "k400_i3d_fima.yaml", *REPRESENTATIVES} <= set(PRETRAIN)
    assert {"finetune_ucf101.yaml", "finetune_hmdb51.yaml", "linear_ucf101.yaml", "linear_hmdb51.yaml"} <= set(FINETUNE)


@pytest.mark.slow
def test_from_pretraining_to_both_kinds_of_classifier(tmp_path: Path) -> None:
    """The paper's recipes for UCF101, end to end."""
    run = tmp_path / "fima"
    assert main(["pretrain", "--smoke", "--out", str(run), str(RECIPES / "ucf101_i3d_fima.yaml")]) == 0
    encoder = str(run / "checkpoints" / "last.pt")
    for name in ("finetune_ucf101.yaml", "linear_hmdb51.yaml"):
        out = tmp_path / name
        assert main(["finetune", encoder, "--smoke", "--out", str(out), str(RECIPES / name)]) == 0
        figures = json.loads((out / "result.json").read_text())["figures"]
        assert all(0 <= value <= 100 for value in figures.values())
        assert figures


@pytest.mark.slow
def test_the_other_backbone_and_the_baseline(tmp_path: Path) -> None:
    words = ["pretrain", "--smoke", "--out", str(tmp_path / "moco"), str(RECIPES / "k400_r2plus1d_18_moco.yaml")]
    assert main(words) == 0


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "--classifier.backbone", "tiny", "scratch"]])
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (["--data.annotations", "none.csv"], "none.csv: no such annotations"),
        (["--data.dataset", "hmdb51"], "is not HMDB51"),
        (["--data.split", "2"], "split 2 was asked for"),
    ],
)
def test_settings_of_a_given_folder_are_tried(
    command: list[str], flag: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_videos(tmp_path, "videos/a.avi", "videos/b.avi")
    words = [*command, str(tmp_path / "videos"), "--smoke", "--out", str(tmp_path / "run"), *flag]
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_data_are_needed_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--out", str(tmp_path / "run"), str(RECIPES / "ucf101_i3d_fima.yaml")]) == 2
    assert "no folder of videos given" in capsys.readouterr().err
