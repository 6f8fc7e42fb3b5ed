"""The package outside of its repository: what a wheel holds, versions, and what is imported when."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import fima
from fima.recipe import RECIPES, read_recipe
from fima.version import DISTRIBUTION
from tests.doc_pages import PAGES

ROOT = Path(__file__).parents[1]


def run(*argv: str, cwd: Path) -> str:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True, cwd=cwd).stdout


def test_there_is_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fima.__version__
    assert f"## {fima.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_pip_install_is_of_this_project() -> None:
    """Messages take the command from `fima.version`; pages name the same distribution, its extras, or the clone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    by_hand = [
        path.relative_to(ROOT)
        for path in (ROOT / "fima").rglob("*.py")
        if path.name != "version.py" and f"pip install '{DISTRIBUTION}" in path.read_text(encoding="utf-8")
    ]
    assert not by_hand, "take it from fima.version.pip_install()"
    for path in [*(ROOT / "fima").rglob("*.py"), *PAGES]:
        for words in re.findall(r"pip install ([^`\n]*)", path.read_text(encoding="utf-8")):
            name, extras = _installed(words)
            assert name in (DISTRIBUTION, "{DISTRIBUTION}", "."), f"{path.relative_to(ROOT)}: pip install {words}"
            assert extras <= {*project["optional-dependencies"], "{extra}"}, f"{path.relative_to(ROOT)}: {words}"
    assert _installed("'fima[onnx, hub]' # x") == ("fima", {"onnx", "hub"})
    assert _installed("--quiet -e . again") == (".", set())


def _installed(words: str) -> tuple[str, set[str]]:
    """The first thing that the words after `pip install` install, and its extras."""
    match = re.match(r"(?:-\S+ +)*[\"']?([\w.{}-]+)(?:\[([^\]]*)\])?", words)
    assert match is not None, words
    return match[1].rstrip(".") or ".", {extra.strip() for extra in (match[2] or "").split(",")} - {""}


def test_recipes_come_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "motion_textures_fima.yaml"
    expected = read_recipe(RECIPES / name)
    assert read_recipe(Path("recipes", name)) == read_recipe(Path(name)) == expected
    Path(name).write_text("optim: {epochs: 3}")
    assert read_recipe(Path(name)).optim.epochs == 3
    with pytest.raises(ValueError, match="cannot read the recipe"):
        read_recipe(Path("elsewhere", name))


def test_the_public_names_are_there() -> None:
    for name in fima.__all__:
        assert getattr(fima, name) is not None
