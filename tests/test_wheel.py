"""The wheel and the source distribution, built once; the wheel installed where nothing else of the repository is."""

import configparser
import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fima
from fima.commands import COMMANDS
from fima.version import DISTRIBUTION, __version__

ROOT = Path(__file__).parents[1]
SOURCES = ("fima", "recipes", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore")
LARGEST_WHEEL_BYTES = 8 * 2**20


def copy_sources(folder: Path) -> Path:
    """Copy what is built, so that nothing is left in the repository; all times are those of the copy."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def build(source: Path, out: Path) -> Path:
    """Build the wheel and the source distribution, as `make dist` does."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    (folder / "source").mkdir()
    return build(copy_sources(folder / "source"), folder / "dist")


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("fima_video-*-py3-none-any.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with nothing but the wheel and, behind it on the path, the libraries that it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    # Files *.pth of a folder that is named in one are not read, so an editable installation stays unseen.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    yield folder
    shutil.rmtree(folder)


def run(environment: Path, cwd: Path, *words: str) -> str:
    """Run a program of the environment and return what it prints."""
    # What is measured is how much of the repository the tests run, not of a copy of it.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "PYTHONPATH"))}
    command = [str(environment / "bin" / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (about,) = tmp_path.glob("fima_video-*.dist-info")
    assert {path.name for path in tmp_path.iterdir()} == {"fima", about.name}
    held = {path.relative_to(tmp_path) for path in (tmp_path / "fima").rglob("*") if path.is_file()}
    sources = {path.relative_to(ROOT) for path in (ROOT / "fima").rglob("*") if path.is_file()}
    recipes = {Path("fima", "recipes", path.name) for path in (ROOT / "recipes").iterdir()}
    assert held == {path for path in sources if "__pycache__" not in path.parts} | recipes
    entry_points = configparser.ConfigParser()
    entry_points.read(about / "entry_points.txt")
    assert entry_points["console_scripts"]["fima"] == "fima.cli:main"
    assert (about / "licenses" / "LICENSE").is_file()
    metadata = email.message_from_string((about / "METADATA").read_text(encoding="utf-8"))
    assert (metadata["Name"], metadata["Version"]) == (DISTRIBUTION, __version__)
    assert wheel.stat().st_size <= LARGEST_WHEEL_BYTES
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert f"pip install {DISTRIBUTION}" in page
    assert "## Results" in page
    # On a package index a link to a file of the repository, or a picture of it, leads nowhere.
    assert all("://" in link for link in re.findall(r"\]\(([^)]*)\)|(?:href|src)=\"([^\"]*)", page) if "".join(link))


def test_builds_are_reproducible(dist: Path, tmp_path: Path) -> None:
    """A later build, and one from the source distribution, give the same bytes."""
    expected = hashes(dist)
    (tmp_path / "later").mkdir()
    assert hashes(build(copy_sources(tmp_path / "later"), tmp_path / "second")) == expected
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        archive.extractall(tmp_path)
    assert hashes(build(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "third")) == expected


def test_every_command_starts_in_an_environment_of_its_own(environment: Path, tmp_path: Path) -> None:
    page = run(environment, tmp_path, "fima", "--help")
    assert re.findall(r"^  (\S+)  ", page, re.MULTILINE) == list(COMMANDS)
    code = "import fima.cli, fima.commands as c; print([fima.cli.main([name, '--help']) for name in c.COMMANDS])"
    printed = run(environment, tmp_path, "python", "-c", code)
    assert printed.splitlines()[-1] == str([0] * len(COMMANDS))
    assert all(f"usage: fima {name} " in printed for name in COMMANDS)


@pytest.mark.slow
def test_it_works_without_the_repository(environment: Path, tmp_path: Path) -> None:
    """A command that needs a recipe, synthetic videos and encoders; and one that needs the report's own files."""
    origin = run(environment, tmp_path, "python", "-c", "import fima; print(fima.__file__)").strip()
    assert Path(origin).is_relative_to(environment)
    assert "finished" in run(
        environment, tmp_path, "fima", "pretrain", "--smoke", "--out", "run", "motion_textures_fima.yaml"
    )
    run(environment, tmp_path, "fima", "report", "run", "-o", "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("page.css", "page.js"):
        text = (ROOT / "fima" / "visual" / "report" / "templates" / name).read_text(encoding="utf-8")
        assert text.strip().splitlines()[-1] in page
    code = "import fima; print(fima.load('small').fingerprint)"
    assert run(environment, tmp_path, "python", "-c", code).strip() == fima.load("small").fingerprint
