"""The hash of another program changes with the files that it imports from its own folder, and with no others."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fima.evaluate.other_encoders import program_hash

FILES = {
    "work/__init__.py": "",
    "work/nets/__init__.py": "from .. import colours\n",
    "work/nets/deep.py": "import torch\nfrom work.layers import flat\nfrom .parts import *\n",
    "work/nets/parts.py": "",
    "work/layers.py": "flat = 1\n",
    "work/colours.py": "",
    "work/apart.py": "",
    "alone.py": "try:\n    from .beside import x\nexcept ImportError:\n    from beside import x\n",
    "beside.py": "x = 1\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("work.nets.deep", "work.apart", "alone"):
        importlib.import_module(name)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("work", "alone", "beside")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "own"),
    [
        ("work.nets.deep", {name for name in FILES if name.startswith("work/")} - {"work/apart.py"}),
        ("work.apart", {"work/__init__.py", "work/apart.py"}),
        ("alone", {"alone.py", "beside.py"}),
    ],
)
def test_it_changes_with_what_the_program_imports(module: str, own: set[str], folder: Path) -> None:
    before = program_hash(module)
    assert before
    for name, text in FILES.items():
        (folder / name).write_text(f"{text}# edited\n")
        assert (program_hash(module) != before) == (name in own), name
        (folder / name).write_text(text)
        assert program_hash(module) == before


def test_an_installed_module_is_all_of_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "one_file.py").write_text("import its_library\n")
    (installed / "its_library.py").touch()
    monkeypatch.syspath_prepend(installed)
    importlib.import_module("one_file")
    before = program_hash("one_file")
    (installed / "its_library.py").write_text("x = 1\n")
    assert program_hash("one_file") == before
    (installed / "one_file.py").write_text("import (")  # in the middle of an edit
    assert program_hash("one_file") != before
    for name in ("one_file", "its_library"):
        del sys.modules[name]
    assert program_hash("one_file") == ""
