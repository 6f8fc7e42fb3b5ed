"""Weights as other programs save them: below their keys and prefixes, beside objects of their classes."""

import argparse
import bz2
import collections
import contextlib
import enum
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fima.backbones.registry import build_backbone
from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.torch_file import read_inert
from fima.errors import CheckpointError
from tests.test_hostile_files import Malicious
from tests.test_pretrained import CPU, refusal, tiny_state


class Stage(enum.Enum):
    PRETRAINING = 1


class Settings(dict[str, Any]):
    """A dictionary with a class of its own, as configuration libraries have."""


class Wrapped(nn.Module):
    """A module that was saved whole."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(build_backbone("tiny"), nn.Linear(2, 2))
        self.model[0].load_state_dict(tiny_state())


def other_state(prefix: str = "") -> dict[str, Tensor]:
    return {name: torch.full_like(value, 7) for name, value in tiny_state(prefix).items()}


def optimizer_state() -> dict[str, Any]:
    weights = [nn.Parameter(value.clone()) for value in tiny_state().values() if value.is_floating_point()]
    optimizer = torch.optim.Adam(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return optimizer.state_dict()


def check(path: Path, epoch: int | None = None) -> None:
    loaded = load_pretrained(path, device=CPU)
    assert (loaded.config.model.backbone, loaded.epoch) == ("tiny", epoch)
    weights = loaded.encoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in tiny_state().items())


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state", "model_state_dict", "net", "ema", "weights", "a/b"]
)
def test_keys_of_wrappers(key: str, tmp_path: Path) -> None:
    content: Any = tiny_state()
    for name in reversed(key.split("/")):
        content = {name: content}
    torch.save({**content, "epoch": 3, "optimizer": optimizer_state()}, tmp_path / "w.pth")
    check(tmp_path / "w.pth", epoch=3)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "net.",
        "backbone.",
        "module._orig_mod.encoder.",
        "_orig_mod.module.model.backbone.",
        "online_network.encoder.net.",
        "student.backbone.",
        "teacher.",
        "my_own_wrapper.inner.",
    ],
)
def test_prefixes_in_any_nesting(prefix: str, tmp_path: Path) -> None:
    heads = {f"{prefix.partition('.')[0]}.projector.weight": torch.zeros(3, 3), "queue": torch.zeros(8, 2)}
    torch.save({"state_dict": {**tiny_state(prefix), **heads}}, tmp_path / "w.pth")
    check(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("taken", "copy"),
    [
        ("teacher.", "student."),
        ("online.", "target."),
        ("model.", "ema."),
        ("encoder_q.", "encoder_k."),
        ("net.", "momentum_net."),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("copy_first", [True, False])
def test_of_two_encoders(taken: str, copy: str, nested: bool, copy_first: bool, tmp_path: Path) -> None:
    if nested:
        parts: list[dict[str, Any]] = [{taken.rstrip("."): tiny_state()}, {copy.rstrip("."): other_state()}]
    else:
        parts = [dict(tiny_state(taken)), dict(other_state(copy))]
    first, second = reversed(parts) if copy_first else parts
    torch.save({**first, **second}, tmp_path / "w.pth")
    check(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, out=Path("runs")),
        np.float64(71.2),
        np.arange(5.0),
        Stage.PRETRAINING,
        Settings(lr=1),
        collections.defaultdict(list, a=[1]),
        {"rng": np.random.default_rng(0).bit_generator.state, "paths": [Path("a")], "set": {1, 2}},
        slice(1, 2),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("new", [True, False])
def test_objects_beside_the_weights_are_not_made(beside: object, protocol: int, new: bool, tmp_path: Path) -> None:
    content = {"epoch": 2, "args": beside, "model": tiny_state(), "optimizer": optimizer_state()}
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
    torch.save(content, tmp_path / "w.pth", **options)  # type: ignore[arg-type]
    check(tmp_path / "w.pth", epoch=2)


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_paths_are_read_as_any_version_of_python_writes_them(module: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    content = {"model": tiny_state(), "out": Path("runs")}
    torch.save(content, path, pickle_protocol=2, _use_new_zipfile_serialization=False)
    ours = f"c{type(Path()).__module__}\n".encode()
    assert ours in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(ours, f"c{module}\n".encode()))
    check(path)


def test_a_module_that_was_saved_whole(tmp_path: Path) -> None:
    torch.save(Wrapped(), tmp_path / "w.pth")
    check(tmp_path / "w.pth")
    content, classes = read_inert(tmp_path / "w.pth")
    assert not isinstance(content, nn.Module)
    assert "tests.test_foreign_checkpoints.Wrapped" in classes


def test_nothing_is_executed(tmp_path: Path) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "trace"
    torch.save({"model": tiny_state(), "args": argparse.Namespace(x=Malicious(trace))}, path)
    assert "posix.mkdir" in refusal(path) or "nt.mkdir" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "subprocess.Popen", "torch.storage._load_from_bytes"])
def test_calls_are_refused_by_name(name: str, tmp_path: Path) -> None:
    module, _, function = name.rpartition(".")
    path = tmp_path / "w.pth"
    path.write_bytes(f"c{module}\n{function}\n(S'1'\ntR.".encode())
    assert f"({name}), so it is not loaded" in refusal(path)


@pytest.mark.parametrize("wrapped", [lambda state: (state, 3), lambda state: {"models": [{}, state]}])
def test_weights_in_a_tuple_or_a_list(wrapped: Callable[[dict[str, Tensor]], Any], tmp_path: Path) -> None:
    torch.save(wrapped(tiny_state("module.")), tmp_path / "w.pth")
    check(tmp_path / "w.pth")


def test_batches_need_not_be_counted(tmp_path: Path) -> None:
    torch.save({name: value for name, value in tiny_state().items() if "num_batches" not in name}, tmp_path / "w.pth")
    loaded = load_pretrained(tmp_path / "w.pth", device=CPU).encoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in tiny_state().items() if "num_batches" not in name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value * float("nan"), "has values that are not finite"),
        (lambda value: value.to("meta"), "has no plain values"),
        (lambda value: value.to_sparse(), "has no plain values"),
    ],
)
def test_weights_without_good_values_are_refused(change: Callable[[Tensor], Tensor], said: str, tmp_path: Path) -> None:
    state = tiny_state()
    name = next(name for name, value in state.items() if value.is_floating_point())
    torch.save({**state, name: change(state[name])}, tmp_path / "w.pth")
    assert f"`{name}` {said}" in refusal(tmp_path / "w.pth")


def test_numpy_weights_are_explained(tmp_path: Path) -> None:
    torch.save({"state_dict": {name: value.numpy() for name, value in tiny_state().items()}}, tmp_path / "w.pth")
    _, _, lines = refusal(tmp_path / "w.pth").partition("two lines of Python rewrite it: ")
    with contextlib.chdir(tmp_path):
        exec(lines, {"torch": torch})
    check(tmp_path / "weights.pth")


def test_what_is_not_found_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "args": argparse.Namespace(lr=1)}, path)
    said = refusal(path)
    assert "it has epoch, args, objects of classes that are not loaded: argparse.Namespace" in said
    assert "c = torch.load('w.pth', weights_only=False); torch.save(c['state_dict'], 'weights.pth')" in said
    with path.open("wb") as file:
        pickle.dump({"weights": np.zeros(3)}, file)
    assert "torch.load('w.pth'" in refusal(path)


def archived(kind: Literal["tar", "zip"]) -> bytes:
    """An archive with one file."""
    archive = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as written:
            written.writestr(zipfile.ZipInfo("model.pth"), b"weights")  # its time is fixed, as names of tests must be
    else:
        with tarfile.open(fileobj=archive, mode="w") as taken:
            taken.addfile(tarfile.TarInfo("model.pth"))
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"\n  <HTML>\n", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "an XML document"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x1f\x8b\x08\x00", "gunzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b'{\n  "error": "not found"}', "JSON"),
        (b"<!-- 404 --><html></html>", "a web page"),
        (bz2.compress(b"weights"), "bunzip2"),
        (lzma.compress(b"weights"), "unxz"),
        (b"Entry not found", "a server's message: 'Entry not found'"),
        (b"path,label\na.mp4,wave\n", "a text, such as a table or a server's message: 'path,label'"),
        (b"", "the file is empty"),
        (archived("tar"), "a tar archive; unpack it"),
        (archived("zip"), "an archive that holds model.pth; unpack it"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_other_kinds_of_files_are_named(content: bytes, said: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_pretrained(path, device=CPU)
