from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.nn import functional

from fima.backbones.registry import build_backbone
from fima.checkpoints.checkpoint import (
    ClassifierCheckpoint,
    Progress,
    Selection,
    load_checkpoint,
    save_checkpoint,
    versions,
)
from fima.checkpoints.classifier import Classifier, load_classifier
from fima.config import ClassifierConfig, FinetuneConfig
from fima.errors import CheckpointError
from fima.evaluate.classifier_result import averages_log_softmax

CLIPS = torch.randn(3, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def classifier(dropout: float = 0.0, l2_normalise: bool = False, *, freeze: bool = False) -> Classifier:
    torch.manual_seed(0)
    config = ClassifierConfig(dropout=dropout, l2_normalise=l2_normalise, freeze=freeze)
    return Classifier(build_backbone("tiny"), 5, config)


@pytest.mark.parametrize("l2_normalise", [False, True])
def test_logits_are_a_linear_function_of_the_pooled_features(l2_normalise: bool) -> None:
    model = classifier(0.7, l2_normalise).eval()
    features = torch.stack([model.encoder(clip[None])[0].flatten(1).mean(dim=1) for clip in CLIPS])
    if l2_normalise:
        features = features / features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model(CLIPS), features @ model.fc.weight.T + model.fc.bias)


def test_a_grid_tells_the_linear_layer_where_and_when(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier(build_backbone("tiny"), 5, ClassifierConfig(grid=True)).eval()
    clips = torch.randn(2, 3, 8, 64, 64)
    parts = []
    for side in (2, 3, 4):
        assert model.encoder(clips).shape[side] % 2 == 0
    for channel in range(model.encoder.num_features):
        for half in model.encoder(clips)[:, channel].chunk(2, dim=1):
            for rows in half.chunk(2, dim=2):
                parts += [cell.mean(dim=(1, 2, 3)) for cell in rows.chunk(2, dim=3)]
    expected = torch.stack(parts, dim=1) @ model.fc.weight.T + model.fc.bias
    torch.testing.assert_close(model(clips), expected)
    saved = checkpoint(model)
    settings = replace(saved.config.classifier, grid=True)
    save_checkpoint(tmp_path / "last.pt", replace(saved, config=replace(saved.config, classifier=settings)))
    assert torch.equal(load_classifier(tmp_path / "last.pt", device=CPU).model(clips), model(clips))


def test_dropout_is_of_the_training_alone() -> None:
    model = classifier(0.7)
    torch.manual_seed(1)
    first = model(CLIPS)
    assert not torch.equal(first, model(CLIPS))
    model.eval()
    assert torch.equal(model(CLIPS), model(CLIPS))


def test_a_frozen_encoder_is_in_eval_mode_and_has_no_gradient() -> None:
    model = classifier(freeze=True)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is mode
        assert not any(module.training for module in model.encoder.modules())
    functional.cross_entropy(model(CLIPS), torch.tensor([0, 1, 2])).backward()  # type: ignore[no-untyped-call]
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


def test_without_freezing_everything_learns() -> None:
    model = classifier()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    functional.cross_entropy(model(CLIPS), torch.tensor([0, 1, 2])).backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None for weight in model.parameters())
    moved = {name for name, value in model.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if name.endswith("running_mean")}


def test_logits_are_in_full_precision_under_autocast() -> None:
    model = classifier().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.encoder(CLIPS).dtype == torch.bfloat16
        assert model(CLIPS).dtype == torch.float32
    assert model.double()(CLIPS.double()).dtype == torch.float64


def checkpoint(model: Classifier) -> ClassifierCheckpoint:
    return ClassifierCheckpoint(
        config=FinetuneConfig(classifier=ClassifierConfig(backbone="tiny", num_classes=5, dropout=0.25)),
        classes=list("abcde"),
        source={"file": "x.pt", "checkpoint_hash": "0123"},
        progress=Progress(epoch=3, step=12),
        selection=Selection(epoch=2, top1=50.0, tested_epoch=2),
        model=model.state_dict(),
        optimizer={},
        data={"num_videos": 8},
        versions=versions(),
    )


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    model = classifier()
    path = tmp_path / "new" / "last.pt"
    saved = checkpoint(model)
    save_checkpoint(path, saved)
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]
    read = load_checkpoint(path, ClassifierCheckpoint)
    for name in ("config", "classes", "source", "progress", "selection", "data", "versions"):
        assert getattr(read, name) == getattr(saved, name), name
    loaded = load_classifier(path, device=CPU)
    assert not loaded.model.training
    assert loaded.model.dropout.p == 0.25
    assert torch.equal(loaded.model(CLIPS), model.eval()(CLIPS))
    assert torch.load(path, weights_only=True)["format"] == "fima-classifier"


def test_files_that_are_no_classifier_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format": "fima-pretrain"}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of `fima finetune`"):
        load_checkpoint(path, ClassifierCheckpoint)
    save_checkpoint(path, replace(checkpoint(classifier()), config=FinetuneConfig()))
    with pytest.raises(CheckpointError, match="names no backbone"):
        load_classifier(path, device=CPU)
    save_checkpoint(path, replace(checkpoint(classifier()), classes=["a", "b"]))
    with pytest.raises(CheckpointError, match=r"`fc.weight` is \(5, 512\), not \(2, 512\)"):
        load_classifier(path, device=CPU)
    content = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in content.items() if key != "selection"}, path)
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_checkpoint(path, ClassifierCheckpoint)


@pytest.mark.parametrize(("backbone", "expected"), [("i3d", True), ("r2plus1d_18", False), ("tiny", False)])
def test_only_i3d_averages_log_probabilities(backbone: Literal["i3d", "r2plus1d_18", "tiny"], expected: bool) -> None:
    assert averages_log_softmax(ClassifierConfig(backbone=backbone)) is expected
