"""The wheel, built and used outside of the repository, with nothing but its content on the path."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fima.commands import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCES = ("fima", "recipes", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, as an installation unpacks it."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, so that nothing is left in the repository and nothing old in it gets into the wheel.
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / "source" / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / "source")
    options = ("--quiet", "--no-build-isolation", "--no-deps", "--disable-pip-version-check", "--no-index")
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("fima-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(site: Path, cwd: Path, *words: str) -> str:
    """Run Python with the content of the wheel on its path and return what it prints."""
    # What is measured is how much of the repository the tests run, not of a copy of it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = str(site)
    command = [sys.executable, "-P", *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fima(site: Path, cwd: Path, *words: str) -> str:
    """Run the command of the wheel and return what it prints."""
    return python(site, cwd, "-m", "fima", *words)


def test_it_holds_the_package_and_nothing_else(site: Path) -> None:
    (about,) = site.glob("fima-*.dist-info")
    assert {path.name for path in site.iterdir()} == {"fima", about.name}
    held = {path.relative_to(site) for path in (site / "fima").rglob("*") if path.is_file()}
    sources = {path.relative_to(ROOT) for path in (ROOT / "fima").rglob("*") if path.is_file()}
    recipes = {Path("fima", "recipes", path.name) for path in (ROOT / "recipes").iterdir()}
    assert held == {path for path in sources if "__pycache__" not in path.parts} | recipes
    entry_points = configparser.ConfigParser()
    entry_points.read(about / "entry_points.txt")
    assert entry_points["console_scripts"]["fima"] == "fima.cli:main"
    assert (about / "licenses" / "LICENSE").is_file()


def test_it_works_without_the_repository(site: Path, tmp_path: Path) -> None:
    """Help; a command that needs a recipe, made videos and encoders; and one that needs the report's own files."""
    assert all(name in fima(site, tmp_path, "--help") for name in COMMANDS)
    origin = python(site, tmp_path, "-c", "import fima; print(fima.__file__)").strip()
    assert Path(origin) == site / "fima" / "__init__.py"
    assert "finished" in fima(site, tmp_path, "pretrain", "--smoke", "--out", "run", "motion_textures_fima.yaml")
    fima(site, tmp_path, "report", "run", "-o", "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("page.css", "page.js"):
        text = (ROOT / "fima" / "visual" / "report" / "templates" / name).read_text(encoding="utf-8")
        assert text.strip().splitlines()[-1] in page
