import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fima.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from fima.checkpoints.convert import fima_to_official, in_official_order, official_to_fima
from fima.checkpoints.official_checkpoint import export_official, import_official, load_training_checkpoint
from fima.checkpoints.pretrained import load_pretrained
from fima.cli import main
from fima.config import MethodConfig, ModelConfig
from fima.errors import CheckpointError
from fima.method.fima import FIMA
from tests.evaluation_data import write_state_dict
from tests.reference import golden_numbers, noise, noise_state
from tests.small_runs import SMALL_CONFIG, with_settings
from tests.test_checkpoint import make_checkpoint
from tests.test_golden_steps import Recorder, check_losses, inputs

STEP_CASES = ["step_I3D_ucf101", "step_I3D_k400", "step_r2plus1d_18_ucf101"]
CPU = torch.device("cpu")
STATES = {
    "no state": None,
    "a list": [torch.zeros(1)],
    "numbers": {0: torch.zeros(1)},
    "a value": {"module.encoder_q.x": 3},
}
"""What stands in files instead of a state dict."""


@pytest.mark.parametrize("name", STEP_CASES)
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_official_keys_survive_the_way_to_ours_and_back(name: str, prefix: str) -> None:
    shapes = {key: shape for key, shape in golden_numbers()[name]["keys"].items() if "mixed_4" not in key}
    state = {prefix + key: value for key, value in noise_state(shapes).items()}
    restored = fima_to_official(official_to_fima(state), prefix=prefix)
    assert list(restored) == list(state)
    for key, value in state.items():
        assert restored[key].dtype == value.dtype
        assert torch.equal(restored[key], value), key


@pytest.mark.parametrize(("name", "exclude"), [("fima", False), ("moco", False), ("fima", True)])
def test_our_keys_survive_the_way_to_theirs_and_back(name: str, exclude: bool) -> None:
    """All but the videos of the keys, which theirs does not know."""
    method = MethodConfig(name=name, queue_size=6, cell_queue_size=10, exclude_same_video=exclude)
    state = FIMA(ModelConfig(backbone="tiny"), method).state_dict()
    official = fima_to_official(state)
    assert all(key.startswith("module.") for key in official)
    restored = official_to_fima(official)
    ids = {"queue.video_ids", "motion_queue.video_ids", "cell_queue.video_ids"} if exclude else set()
    assert state.keys() - restored.keys() == ids
    assert all(torch.equal(state[key], value) for key, value in restored.items())


def test_a_key_of_something_else_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"backbone\.conv1\.weight: not a key of"):
        official_to_fima({"backbone.conv1.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="queue_of_cells"):
        fima_to_official({"queue_of_cells": torch.zeros(1)})


@pytest.mark.parametrize("name", STEP_CASES)
def test_our_order_of_their_keys_is_theirs(name: str) -> None:
    keys = list(golden_numbers()[name]["keys"])
    assert in_official_order(keys) == keys
    assert in_official_order(sorted(keys, key=lambda key: key.split(".")[0])) == keys


def momentum(key: str, weight: Tensor) -> Tensor:
    return noise(f"momentum.{key}", weight.shape).to(weight.dtype)


def official_file(state: dict[str, Tensor], arch: str) -> dict[str, Any]:
    """What the authors' program saves: an SGD over all weights, with a momentum where a gradient has been."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "queue", "_ptr", "queue_dense")
    weights = [key for key in state if not key.endswith(buffers)]
    moved = {
        number: {"momentum_buffer": momentum(key, state[key])}
        for number, key in enumerate(weights)
        if not key.startswith(("encoder_k.", "projector_dense_k."))
    }
    group = {"lr": 0.0025, "momentum": 0.9, "dampening": 0, "weight_decay": 1e-4, "nesterov": False}
    return {
        "epoch": 100,
        "arch": arch,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "optimizer": {"state": moved, "param_groups": [{**group, "params": list(range(len(weights)))}]},
        "best_loss": torch.tensor(2.5),
    }


def assert_same(restored: Any, expected: Any, where: str = "file") -> None:  # noqa: ANN401
    """The same values, dtypes, shapes and order of keys."""
    assert type(restored) is type(expected), where
    if isinstance(expected, dict):
        assert list(restored) == list(expected), where
        for key, value in expected.items():
            assert_same(restored[key], value, f"{where}/{key}")
    elif isinstance(expected, Tensor):
        assert (restored.dtype, restored.shape) == (expected.dtype, expected.shape), where
        assert restored.numpy().tobytes() == expected.numpy().tobytes(), where
    else:
        assert restored == expected, where


@pytest.mark.slow
def test_an_official_checkpoint_trains_on_and_comes_back_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = golden_numbers()["step_I3D_k400"]
    state = {key: value.float() if value.is_floating_point() else value
             for key, value in noise_state(case["keys"]).items()}  # fmt: skip
    for key in state:
        state[key] = state[key.replace("encoder_k.", "encoder_q.").replace("_dense_k.", "_dense.")].clone()
    theirs, ours, back = tmp_path / "theirs.pth.tar", tmp_path / "ours.pt", tmp_path / "back.pth.tar"
    content = official_file(state, "I3D")
    torch.save(content, theirs)

    assert main(["convert", str(theirs), str(ours)]) == 0
    checkpoint = load_checkpoint(ours)
    config = checkpoint.config
    assert (config.model.backbone, config.method.name, checkpoint.progress.epoch) == ("i3d", "fima", 100)
    assert (config.method.queue_size, config.method.cell_queue_size) == (case["queue_size"], case["dense_queue"])
    network = FIMA(replace(config.model, decoder_dropout=0.0), config.method)
    network.load_state_dict(checkpoint.model)
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0, momentum=0.9)
    optimizer.load_state_dict(checkpoint.optimizer)
    official_names = {name: next(iter(fima_to_official({name: weight}, prefix=""))) for name, weight in trained.items()}
    for name, weight in trained.items():
        expected = momentum(official_names[name], state[official_names[name]])
        assert torch.equal(optimizer.state[weight]["momentum_buffer"].flatten(), expected.flatten()), name

    recorder = Recorder(monkeypatch)
    result = network.train()(*(inputs(0, clip, case["clip"], torch.float32) for clip in "mn"))
    check_losses(result, recorder.take(), case["steps"][0], tolerance=2.5e-5, relative=2.5e-5)

    assert main(["convert", str(ours), str(back), "--to", "official"]) == 0
    restored = torch.load(back, weights_only=True)
    assert sorted(restored) == sorted(content)
    assert_same({key: restored[key] for key in content}, content)


@pytest.mark.parametrize("changes", [{}, {"name": "moco"}, {"frame_weight": 0.0}, {"decoder": False}])
def test_our_checkpoint_goes_to_theirs_and_back(changes: dict[str, Any], tmp_path: Path) -> None:
    config = with_settings("method", **changes)
    network = FIMA(config.model, config.method)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    for weight in trained:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    saved = make_checkpoint(config=config, model=dict(network.state_dict()), optimizer=optimizer.state_dict())
    official = export_official(saved)
    assert (official["arch"], official["epoch"]) == ("tiny", 3)
    assert len(official["optimizer"]["param_groups"][0]["params"]) == len(list(network.parameters()))
    again = import_official(official, source=tmp_path)
    kept = ("queue_size", "cell_queue_size", "name", "decoder", "frame_weight")
    assert all(getattr(again.config.method, name) == getattr(config.method, name) for name in kept)
    assert_same({name: again.model[name] for name in saved.model}, saved.model)
    assert_same(dict(sorted(again.optimizer["state"].items())), dict(sorted(saved.optimizer["state"].items())))
    assert again.optimizer["param_groups"] == saved.optimizer["param_groups"]


@pytest.mark.parametrize("beside", [{}, {"optimizer": {}}, {"optimizer": None}])
def test_an_official_file_without_optimizer_or_prefix(beside: dict[str, Any], tmp_path: Path) -> None:
    content = {**beside, "state_dict": fima_to_official(make_checkpoint().model, prefix="")}
    checkpoint = import_official(content, source=tmp_path)
    network = FIMA(checkpoint.config.model, checkpoint.config.method)
    torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=1).load_state_dict(
        checkpoint.optimizer
    )
    assert checkpoint.progress.epoch == 0
    assert_same(export_official(checkpoint), content)


def test_a_whole_training_file_with_objects_of_other_classes(tmp_path: Path) -> None:
    """As programs save it: settings as a Namespace, a best figure of NumPy; both are left out, the rest is kept."""
    plain = official_file(fima_to_official(make_checkpoint().model, prefix=""), "tiny")
    beside = {"args": argparse.Namespace(lr=0.1, out=tmp_path), "best_acc1": np.float64(71.2), "scaler": {"scale": 2.0}}
    theirs, ours, back = (tmp_path / name for name in ("theirs.pth.tar", "ours.pt", "back.pth.tar"))
    torch.save({**plain, **beside}, theirs)
    assert main(["convert", str(theirs), str(ours)]) == 0
    assert main(["convert", str(ours), str(back), "--to", "official"]) == 0
    expected = {**plain, "scaler": {"scale": 2.0}}
    restored = torch.load(back, weights_only=True)
    assert_same({key: restored[key] for key in expected if key in restored}, expected)
    assert restored.keys() == expected.keys()


def broken(kind: str) -> dict[str, Any]:
    content = export_official(make_checkpoint())
    state = content["state_dict"]
    if kind == "left over":
        state["module.encoder_q.layers.99.weight"] = torch.zeros(1)
    elif kind == "missing":
        del state["module.encoder_k.layers.1.weight"]
    elif kind == "shape":
        state["module.motion_queue"] = torch.zeros(8, 5)
    elif kind == "optimizer":
        content["optimizer"]["param_groups"][0]["params"].pop()
    elif kind in STATES:
        content["state_dict"] = STATES[kind]
    elif kind == "groups":
        content["optimizer"]["param_groups"] = [3]
    else:
        content["state_dict"] = {key: value for key, value in state.items() if "encoder_q" in key}
    return content


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("left over", "`query_encoder.layers.99.weight` is not expected"),
        ("missing", "`key_encoder.layers.1.weight` is missing"),
        ("shape", "`motion_queue.keys` is (5, 8), not (4, 8)"),
        ("optimizer", "the optimizer is not that of the model"),
        ("encoder", "not a whole pre-training checkpoint"),
        *((kind, "its state_dict has other values than tensors") for kind in STATES),
        ("groups", "not a checkpoint of the authors' pre-training"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused(
    kind: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = tmp_path / "theirs.pth.tar", tmp_path / "ours.pt"
    torch.save(broken(kind), path)
    with pytest.raises(CheckpointError) as caught:
        load_training_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert main(["convert", str(path), str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("to", ["fima", "official"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_an_encoder_alone(to: str, suffix: str, tmp_path: Path) -> None:
    source, out = tmp_path / "last.pt", tmp_path / f"encoder.{suffix}"
    saved = make_checkpoint()
    save_checkpoint(source, saved)
    assert main(["convert", str(source), str(out), "--encoder-only", "--to", to]) == 0
    loaded = load_pretrained(out, device=CPU)
    assert loaded.epoch == 3
    weights = loaded.encoder.state_dict()
    assert all(torch.equal(value, saved.model[f"query_encoder.{name}"]) for name, value in weights.items())
    assert (loaded.config, loaded.method, loaded.knows_settings) == (SMALL_CONFIG, "fima", True)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_settings_that_are_not_known_stay_unknown(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"encoder.{suffix}"
    source = write_state_dict(tmp_path / "weights.pt")
    assert main(["convert", str(source), str(out), "--encoder-only"]) == 0
    before, after = load_pretrained(source, device=CPU), load_pretrained(out, device=CPU)
    assert not after.knows_settings
    assert (after.method, after.epoch) == (before.method, before.epoch)
    assert_same(after.encoder.state_dict(), before.encoder.state_dict())


def test_all_weights_as_safetensors(tmp_path: Path) -> None:
    source, out = tmp_path / "last.pt", tmp_path / "weights.safetensors"
    saved = make_checkpoint()
    save_checkpoint(source, saved)
    assert main(["convert", str(source), str(out)]) == 0
    assert_same(dict(sorted(load_file(out).items())), dict(sorted(saved.model.items())))
    assert load_pretrained(out, device=CPU).method == "fima"


def test_an_optimizer_that_is_none_of_pytorchs_is_kept_as_it_is(tmp_path: Path) -> None:
    content = {**export_official(make_checkpoint()), "optimizer": [{"lr": 0.1}]}
    torch.save(content, tmp_path / "theirs.pth.tar")
    back = export_official(load_training_checkpoint(tmp_path / "theirs.pth.tar"))
    assert back["optimizer"] == [{"lr": 0.1}]
    assert_same(back["state_dict"], content["state_dict"])


def test_a_run_is_its_last_checkpoint(tmp_path: Path) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    last.parent.mkdir(parents=True)
    save_checkpoint(last, make_checkpoint())
    for number, source in enumerate((last, last.parents[1])):
        assert main(["convert", str(source), str(tmp_path / f"{number}.pt"), "--to", "official"]) == 0
    first, second = (torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in (0, 1))
    assert_same(second, first)


def test_no_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint())
    before = path.read_bytes()
    assert main(["convert", str(path), str(path)]) == 2
    assert "already exists; choose another name" in capsys.readouterr().err
    assert path.read_bytes() == before
