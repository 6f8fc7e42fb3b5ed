from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import video

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import ClassifierCheckpoint, Progress, Selection, save_checkpoint
from fima.checkpoints.classifier import Classifier
from fima.checkpoints.convert import fima_to_official
from fima.checkpoints.pretrained import load_pretrained
from fima.config import ClassifierConfig, DataConfig, FinetuneConfig
from fima.errors import CheckpointError
from fima.method.heads import pooled
from tests.small_runs import SMALL_CONFIG, with_settings
from tests.test_checkpoint import make_checkpoint

CPU = torch.device("cpu")


def tiny_state(prefix: str = "") -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {prefix + name: value for name, value in build_backbone("tiny").state_dict().items()}


def with_classifier(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {**state, f"{prefix}fc.weight": torch.zeros(3, 512), f"{prefix}fc.bias": torch.zeros(3)}


def moco_state(prefix: str = "module.") -> dict[str, Tensor]:
    """MoCo and what builds on it: both encoders with a projection head called `fc`, and one queue."""
    state: dict[str, Tensor] = {}
    for encoder in ("encoder_q.", "encoder_k."):
        state |= tiny_state(prefix + encoder)
        state |= {f"{prefix}{encoder}fc.{layer}.weight": torch.zeros(2, 2) for layer in (0, 2)}
    return {**state, f"{prefix}queue": torch.zeros(128, 4), f"{prefix}queue_ptr": torch.zeros(1)}


@pytest.mark.parametrize(
    ("content", "method", "epoch"),
    [
        ({"epoch": 7, "arch": "tiny", "state_dict": moco_state(), "optimizer": {}}, "moco", 7),
        ({"state_dict": moco_state(prefix="")}, "moco", None),
        (moco_state(), "moco", None),
        (tiny_state(), "encoder", None),
        (with_classifier(tiny_state()), "supervised", None),
        ({"epoch": 150, "state_dict": with_classifier(tiny_state("module."), "module.")}, "supervised", 150),
    ],
)
@pytest.mark.parametrize("backbone", [None, "tiny"])
def test_state_dicts_of_other_programs(
    content: dict[str, Any], method: str, epoch: int | None, backbone: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth.tar"
    torch.save(content, path)
    loaded = load_pretrained(path, backbone=backbone, device=CPU)
    assert (loaded.method, loaded.epoch, loaded.config.model.backbone) == (method, epoch, "tiny")
    assert loaded.description == f"{method} tiny" + ("" if epoch is None else f", {epoch} epochs")
    assert not loaded.encoder.training
    weights = loaded.encoder.state_dict()
    assert weights.keys() == tiny_state().keys()
    assert all(torch.equal(value, weights[name]) for name, value in tiny_state().items())


def test_a_checkpoint_of_the_authors(tmp_path: Path) -> None:
    path, saved = tmp_path / "theirs.pth.tar", make_checkpoint()
    torch.save({"epoch": 200, "arch": "tiny", "state_dict": fima_to_official(saved.model)}, path)
    loaded = load_pretrained(path, device=CPU)
    assert (loaded.method, loaded.epoch) == ("fima", 200)
    weights = loaded.encoder.state_dict()
    assert all(torch.equal(value, saved.model[f"query_encoder.{name}"]) for name, value in weights.items())


def test_a_checkpoint_of_our_own(tmp_path: Path) -> None:
    path, again, saved = tmp_path / "last.pt", tmp_path / "again.pt", make_checkpoint()
    save_checkpoint(path, saved)
    loaded = load_pretrained(path, backbone="tiny", device=CPU)
    assert (loaded.method, loaded.epoch, loaded.config, len(loaded.checkpoint_hash)) == ("fima", 3, SMALL_CONFIG, 16)
    assert loaded.description == "fima tiny, 3 epochs"
    light = replace(SMALL_CONFIG, method=replace(SMALL_CONFIG.method, cost="light"))
    assert replace(loaded, config=light).description == "fima light tiny, 3 epochs"
    assert replace(loaded, config=light, method="supervised").description == "supervised tiny, 3 epochs"
    weights = loaded.encoder.state_dict()
    assert all(torch.equal(value, saved.model[f"query_encoder.{name}"]) for name, value in weights.items())
    save_checkpoint(again, make_checkpoint(progress=Progress(epoch=4)))
    assert load_pretrained(again, device=CPU).checkpoint_hash != loaded.checkpoint_hash


def test_a_classifier_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    model = Classifier(build_backbone("tiny"), 3, ClassifierConfig())
    config = FinetuneConfig(
        classifier=ClassifierConfig(backbone="tiny", num_classes=3), data=DataConfig(frames=4, crop_size=32, blur=0)
    )
    checkpoint = ClassifierCheckpoint(
        config=config,
        progress=Progress(epoch=5),
        model=dict(model.state_dict()),
        optimizer={},
        selection=Selection(),
        data={},
        versions={},
        classes=["a", "b", "c"],
        source={"file": "scratch"},
    )
    save_checkpoint(path, checkpoint)
    loaded = load_pretrained(path, device=CPU)
    assert (loaded.method, loaded.epoch, loaded.config.data) == ("supervised", 5, config.data)
    weights = loaded.encoder.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.encoder.state_dict().items())


@pytest.mark.parametrize("state", [tiny_state(), with_classifier(tiny_state()), moco_state()])
def test_safetensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    weights = load_pretrained(path, device=CPU).encoder.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in tiny_state().items())


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_weights_give_torchvision_features(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = getattr(video, name)(weights=None)
    path = tmp_path / f"{name}.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(network.state_dict(), path)
    loaded = load_pretrained(path, device=CPU)
    assert (loaded.config.model.backbone, loaded.method) == (name, "supervised")
    network.fc = torch.nn.Identity()
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(pooled(loaded.encoder(clip)), network.eval()(clip))


def refusal(path: Path, backbone: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(path, backbone=backbone, device=CPU)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pth"
    save_checkpoint(ours, make_checkpoint())
    torch.save(video.r3d_18(weights=None).state_dict(), theirs)
    assert "its encoder is tiny, not i3d" in refusal(ours, "i3d")
    assert "its encoder is r3d_18, not r2plus1d_18" in refusal(theirs, "r2plus1d_18")
    torch.save({"features.0.weight": torch.zeros(3)}, theirs)
    assert "mvit_v2_s; its weights begin with `features.0.weight`" in refusal(theirs)


def test_left_over_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({**tiny_state(), "extra.weight": torch.zeros(2)}, path)
    assert "not of this backbone tiny: `extra.weight` is not expected" in refusal(path)
    state = tiny_state("module.encoder_q.")
    del state["module.encoder_q.layers.4.weight"]
    torch.save({"state_dict": state}, path)
    assert "`layers.4.weight` is missing" in refusal(path, "tiny")
    torch.save({**tiny_state(), "layers.4.weight": torch.zeros(2, 2)}, path)
    assert "`layers.4.weight` is (2, 2), not (32, 16, 3, 3, 3)" in refusal(path)
    save_checkpoint(path, make_checkpoint(config=with_settings("model", backbone="r3d_18")))
    assert "not of this backbone r3d_18" in refusal(path)


@pytest.mark.parametrize("write", ["new", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(write: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / ("model.safetensors" if write == "safetensors" else "model.pth")
    if write == "safetensors":
        save_file(tiny_state(), path)
    else:
        torch.save(tiny_state(), path, _use_new_zipfile_serialization=write == "new")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert any(word in refusal(path) for word in ("truncated", "damaged", "no checkpoint"))


def test_a_legacy_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": moco_state()}, path, _use_new_zipfile_serialization=False)
    assert load_pretrained(path, device=CPU).method == "moco"


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    assert "no such checkpoint file" in refusal(path)
    torch.save([1, 2], path)
    assert "holds no weights of an encoder" in refusal(path)
    torch.save({"epoch": 3}, path)
    assert "holds no weights of an encoder" in refusal(path)
    torch.save({"state_dict": {}}, path)
    assert "holds no weights of an encoder" in refusal(path)
    assert "the encoder comes before the videos" in refusal(tmp_path)
