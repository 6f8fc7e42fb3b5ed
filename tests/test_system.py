"""What `fima --version` and `fima doctor --system` say about a machine, and about one that lacks something."""

import json
import resource
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av.codec
import pytest
import torch

from fima.cli import main
from fima.commands import system
from fima.commands.system import EXTRAS, Check, check_system
from fima.version import __version__

ROOT = Path(__file__).parents[1]
FOR_DEVELOPERS = {"dev", "docs", "mutants", "release"}


def only(name: str) -> Check:
    (check,) = (check for check in check_system() if check.name == name)
    return check


def test_the_version_names_what_a_report_of_a_problem_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    own, libraries, device, extras = capsys.readouterr().out.splitlines()
    assert own == f"fima {__version__}"
    assert f"torch {torch.__version__.partition('+')[0]}" in libraries
    assert device.startswith("device: cuda (" if torch.cuda.is_available() else "device: cpu (")
    assert extras.startswith("extras: ")


def test_the_extras_are_those_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        extra: {name.partition(">")[0] for name in names}
        for extra, names in project["optional-dependencies"].items()
        if extra not in FOR_DEVELOPERS
    }
    assert {extra: set(names) for extra, names in EXTRAS.items()} == declared
    monkeypatch.setattr(system, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert system.missing_extras() == {"onnx": ["onnxruntime"]}
    assert system.version_text().splitlines()[-1] == "extras: hub, lars, parquet, transformers"
    assert only("extra [onnx]").advice == "only if you need it: pip install 'fima-video[onnx]'"


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    gpu = SimpleNamespace(name="Some GPU", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    assert system.device_name() == "cuda (Some GPU, 80.0 GB)"
    assert only("device") == Check(name="device", found="cuda (Some GPU, 80.0 GB)")


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert only("device").advice == "install torch's build for CUDA"
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert only("device").advice == "update the driver to one for CUDA 12.6"


def test_what_is_missing_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = set(av.codec.codecs_available) - {"libx264", "av1"}
    monkeypatch.setattr(av.codec, "codecs_available", lacking)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main(["doctor", "--system", "--json", str(tmp_path / "found.json")]) == 1
    printed = capsys.readouterr().out
    assert "2 to put right" in printed
    found: dict[str, Any] = {each["name"]: each for each in json.loads((tmp_path / "found.json").read_text())["checks"]}
    assert found["encoder"]["state"] == found["torchvision"]["state"] == "problem"
    assert found["decoder"]["found"] == "no av1"
    assert "--shm-size" in found["shared memory"]["advice"]
    assert found["open files"]["advice"] == "run `ulimit -n 4096` before training"
    assert found["numpy"]["state"] == "ok"


def test_videos_or_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert "missing: a folder of videos, `fima doctor VIDEOS`; or --system" in capsys.readouterr().err
    assert main(["doctor", "VIDEOS", "--system"]) == 2
    assert "--system checks this machine, not VIDEOS" in capsys.readouterr().err
    for words in (["--deep"], ["--data.fps", "5"], ["--quarantine", "bad.txt"]):
        assert main(["doctor", "--system", *words]) == 2
        assert "--system checks this machine and takes --json only" in capsys.readouterr().err
