from pathlib import Path

import pytest

from fima.config import DataConfig, OptimConfig, PretrainConfig, RunConfig
from fima.errors import ConfigError
from fima.recipe import flatten, read_recipe
from tests.small_runs import SMALL_CONFIG

EVERY_KIND = PretrainConfig(
    data=DataConfig(max_skipped_share=0.5),
    optim=OptimConfig(schedule="step", milestones=(3, 5), lr=1e-3),
    run=RunConfig(precision="bf16"),
)


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_what_a_recipe_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    read = read_recipe(recipe(tmp_path, "optim: {lr: 1e-3, epochs: 7}\nmodel:\nrecord: {anything: 1}\n"))
    assert read == PretrainConfig(optim=OptimConfig(lr=0.001, epochs=7))
    assert read_recipe(recipe(tmp_path, "")) == PretrainConfig()


def test_whole_numbers_and_text_are_numbers_where_a_float_is_needed(tmp_path: Path) -> None:
    read = read_recipe(recipe(tmp_path, "optim: {lr: 1, weight_decay: 1e-5}"))
    assert (read.optim.lr, read.optim.weight_decay) == (1.0, 1e-5)
    assert isinstance(read.optim.lr, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optm: {lr: 1}", "unknown key `optm`; did you mean `optim`?"),
        ("optim: {learning: 1, lr: 1}", "unknown key `optim.learning`"),
        ("method: {queue_sise: 8}", "unknown key `method.queue_sise`; did you mean `queue_size`?"),
        ("epochs: 3", "unknown key `epochs`; it belongs under `optim:`"),
        ("optim: {schedule: cosin}", "`optim.schedule`: unknown value `cosin`; did you mean `cosine`?"),
        ("optim: {epochs: many}", "`optim.epochs`: a whole number is needed, not the text `many`"),
        ("optim: {epochs: 1.5}", "a whole number is needed, not the number `1.5`"),
        ("optim: {epochs: true}", "a whole number is needed, not the switch `True`"),
        ("optim: {lr: fast}", "a number is needed, not the text `fast`"),
        ("optim: {lr: null}", "a number is needed"),
        ("method: {decoder: 1}", "true or false is needed"),
        ("run: {device: 0}", "text is needed"),
        ("optim: {schedule: step, milestones: 60}", "a list is needed"),
        ("data: {span: [0.85]}", "--data.span (0.85,): two shares, the smaller first"),
        ("data: {span: []}", "--data.span (): two shares, the smaller first"),
        ("data: {span: [0.5, 0.7, 1]}", "two shares, the smaller first"),
        ("optim: {lr: -1}", "--optim.lr -1.0: must be 0 or more"),
        ("optim: 3", "`optim` holds settings, not a number"),
        ("- a\n- b", "a recipe is a mapping"),
        ("a: [", "not valid YAML: line 1: "),
        ("optim:\n\tlr: 1", "not valid YAML: line 2: a tab; YAML is indented by spaces"),
    ],
)
def test_mistakes_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = recipe(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot read the recipe \(File name too long\)"):
        read_recipe(tmp_path / f"{'long' * 100}.yaml")


def test_flatten_names_the_flags() -> None:
    assert flatten(SMALL_CONFIG)["model.backbone"] == "tiny"
    assert flatten(EVERY_KIND)["optim.milestones"] == [3, 5]
