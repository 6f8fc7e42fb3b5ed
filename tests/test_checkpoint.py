import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fima.checkpoints import checkpoint as checkpoints
from fima.checkpoints.checkpoint import Checkpoint, Progress, load_checkpoint, load_weights, save_checkpoint
from fima.errors import CheckpointError
from fima.method.fima import FIMA
from tests.small_runs import SMALL_CONFIG, with_settings


def make_checkpoint(**changes: Any) -> Checkpoint:  # noqa: ANN401
    torch.manual_seed(0)
    method = FIMA(SMALL_CONFIG.model, SMALL_CONFIG.method)
    values: dict[str, Any] = {
        "config": SMALL_CONFIG,
        "progress": Progress(epoch=3, step=12, videos_tried=40),
        "model": dict(method.state_dict()),
        "optimizer": torch.optim.SGD(method.parameters(), lr=0.1).state_dict(),
        "data": {"num_videos": 10},
        "versions": checkpoints.versions(),
    }
    return Checkpoint(**{**values, **changes})


def test_round_trip_with_plain_values_only(tmp_path: Path) -> None:
    path, saved = tmp_path / "folder" / "last.pt", make_checkpoint()
    save_checkpoint(path, saved)
    assert torch.load(path, weights_only=True)["format"] == "fima-pretrain"
    loaded = load_checkpoint(path)
    assert (loaded.config, loaded.progress, loaded.data) == (saved.config, saved.progress, saved.data)
    assert all(torch.equal(value, saved.model[name]) for name, value in loaded.model.items())
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint())
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match=r"last.pt: cannot be written \(No space left on device\)"):
        save_checkpoint(path, make_checkpoint(progress=Progress(epoch=4)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_truncated(path: Path) -> None:
    save_checkpoint(path, make_checkpoint())
    path.write_bytes(path.read_bytes()[:-5000])


def written(**content: object) -> Callable[[Path], None]:
    """What writes a file of PyTorch with some content."""
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such checkpoint"),
        (Path.mkdir, "is a folder"),
        (Path.touch, "the file is empty"),
        (write_truncated, "truncated"),
        (lambda path: path.write_text("not a checkpoint at all"), "no checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps(Path("x"))), "no checkpoint"),
        (written(epoch=3, model={}), "not a checkpoint of `fima pretrain`"),
        (written(epoch=3, arch="I3D", state_dict={}), "is converted by `fima convert`"),
        (written(format="fima-pretrain", format_version=99, versions={"fima": "9.0"}), "newer fima"),
        (written(format="fima-pretrain", format_version=1), "not a complete checkpoint"),
        (written(format="fima-pretrain"), "not a complete checkpoint"),
        (written(format="fima-pretrain", format_version=3, model=[1]), "than tensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path, write: Any, message: str) -> None:  # noqa: ANN401
    path = tmp_path / "some.pt"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    other = with_settings("model", embedding_dim=4)
    method = FIMA(other.model, other.method)
    with pytest.raises(CheckpointError, match="its weights are not of this model"):
        load_weights(method, make_checkpoint().model, source=tmp_path, what="model")
    with pytest.raises(CheckpointError, match="is missing"):
        load_weights(method, {}, source=tmp_path, what="model")
