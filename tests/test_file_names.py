"""Names of files of any letters, with line breaks, dashes and control characters."""

import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from rich.table import Table

import fima
from fima.cli import main
from fima.console import Console
from fima.errors import warn
from tests.small_runs import make_videos
from tests.test_datasets import touch


def test_names_of_any_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pictures, on a terminal that knows ASCII alone, and as long as a file system takes."""
    video = next(make_videos(tmp_path / "made").rglob("*.avi"))
    (tmp_path / "videos").mkdir()
    odd = ["line\nbreak.avi", "é.avi", os.fsdecode(b"\xff.avi"), f"{'x' * 250}.avi"]
    for name in odd:
        shutil.copy(video, tmp_path / "videos" / name)
    assert main(["contact-sheet", str(tmp_path / "videos"), "--out", str(tmp_path / "sheet.png")]) == 0
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["prepare", str(tmp_path / "videos"), str(tmp_path / "small"), "--workers", "1"]) == 0
        assert main(["doctor", str(tmp_path / "small"), "--workers", "1"]) == 0
        monkeypatch.undo()
    assert {path.stem for path in (tmp_path / "small").glob("*.mp4")} == {Path(name).stem for name in odd}


def test_names_that_look_like_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "clip [abc] :cat:.avi"
    (tmp_path / name).write_bytes(b"no video")
    assert main(["doctor", str(tmp_path), "--workers", "1"]) == 1
    assert f"    {name}: " in capsys.readouterr().out
    table = Table("video", title=name)
    table.add_row(f"folder[/{name}")
    Console(width=80).print(table)
    assert capsys.readouterr().out.count(name) == 2


def test_a_name_with_a_line_break_in_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contact-sheet", str(tmp_path / "a\nb"), "--out", str(tmp_path / "sheet.png")]) == 2
    assert rf"{tmp_path}/a\nb" in capsys.readouterr().err


def test_names_that_begin_with_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "-rf.mp4", "-1.mp4")
    monkeypatch.chdir(tmp_path)
    for name in ("-rf.mp4", "-1.mp4"):
        assert main(["motion", name, "--device", "cpu"]) == 2
        assert f"fima: error: {name}: the file is empty" in capsys.readouterr().err
    for words in (["motion", "-gone.mp4"], ["embed", "x.pt", ".", "-o", "-v.npz"], ["motion", "a.mp4", "-gone.mp4"]):
        assert main(words) == 2
        assert f"a name that begins with a dash is written ./{words[-1]}" in capsys.readouterr().err
    assert main(["search", "x.npz", "a.mp4", "-k", "-12"]) == 2
    assert "--k -12: must be at least 1" in capsys.readouterr().err


def test_names_with_control_characters_in_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warn(f"{tmp_path}/a\nb\x1b[2J\u202e.avi: no video")
    assert capsys.readouterr().err == f"fima: warning: {tmp_path}/a\\nb\\x1b[2J\\u202e.avi: no video\n"
    scattered = [path for path in Path(fima.__file__).parent.rglob("*.py") if "fima: warning: " in path.read_text()]
    assert [path.name for path in scattered] == ["errors.py"], "one place prints warnings"
