"""`--model.init-from`: the encoder begins with other weights, and everything else anew."""

from pathlib import Path

import pytest
import torch

from fima.cli import main
from fima.config import MethodConfig
from fima.errors import CheckpointError
from fima.method import build_method
from fima.train.pretrain import start_encoders_from
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS, make_videos


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    videos = make_videos(folder / "videos")
    assert main(["pretrain", str(videos), "--out", str(folder / "first"), *SMALL_FLAGS, "--optim.epochs", "1"]) == 0
    return folder


def saved(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]
    return weights


def test_both_encoders_have_its_weights_and_nothing_else_has(run: Path) -> None:
    torch.manual_seed(5)
    method = build_method(SMALL_CONFIG.model, MethodConfig(queue_size=4, cell_queue_size=0))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    said = start_encoders_from(str(run / "first"), method, "tiny")
    after, source = method.state_dict(), saved(run / "first")
    encoder = {name.removeprefix("query_encoder."): value for name, value in source.items() if "query_encoder" in name}
    assert len(encoder) > 5
    for name, value in encoder.items():
        assert torch.equal(after[f"query_encoder.{name}"], value)
        assert torch.equal(after[f"key_encoder.{name}"], value)
    others = [name for name in after if "_encoder." not in name]
    assert others
    assert all(torch.equal(after[name], before[name]) for name in others)
    assert f"{len(encoder)} tensors" in said


def test_a_run_begins_with_them_and_is_resumed_from_its_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run / "second"
    words = ["pretrain", str(run / "videos"), "--out", str(out), *SMALL_FLAGS, "--model.init-from", str(run / "first")]
    assert main([*words, "--optim.epochs", "1", "--optim.lr", "0", "--method.key-momentum", "1"]) == 0
    assert "first" in capsys.readouterr().out
    name = "query_encoder.layers.1.weight"
    assert torch.equal(saved(out)[name], saved(run / "first")[name])
    assert main([*words, "--optim.epochs", "2", "--optim.lr", "0", "--method.key-momentum", "1", "--resume"]) == 0
    assert "continuing after step" in capsys.readouterr().out


def test_another_architecture_is_refused(run: Path) -> None:
    method = build_method(SMALL_CONFIG.model, MethodConfig(queue_size=4, cell_queue_size=0))
    with pytest.raises(CheckpointError, match="its encoder is tiny, not small"):
        start_encoders_from(str(run / "first"), method, "small")
