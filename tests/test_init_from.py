"""`--model.init-from`: the encoder begins with other weights, and everything else anew."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import models

from fima.backbones.registry import build_backbone
from fima.checkpoints.pretrained import encoder_file, from_state, read_encoder
from fima.checkpoints.warm_start import fitted, read_warm_start
from fima.cli import main
from fima.config import MethodConfig
from fima.errors import CheckpointError
from fima.method.fima import FIMA
from fima.train.pretrain import start_encoders_from
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS


@pytest.fixture
def run(pretrained: Path) -> Path:
    return pretrained.parent.parent


def saved(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]
    return weights


def test_both_encoders_have_its_weights_and_nothing_else_has(run: Path) -> None:
    torch.manual_seed(5)
    method = FIMA(SMALL_CONFIG.model, MethodConfig(queue_size=4, cell_queue_size=0))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    warm = read_warm_start(str(run), "tiny")
    start_encoders_from(warm, method)
    after, source = method.state_dict(), saved(run)
    encoder = {name.removeprefix("query_encoder."): value for name, value in source.items() if "query_encoder" in name}
    assert len(encoder) > 5
    for name, value in encoder.items():
        assert torch.equal(after[f"query_encoder.{name}"], value)
        assert torch.equal(after[f"key_encoder.{name}"], value)
    others = [name for name in after if "_encoder." not in name]
    assert others
    assert all(torch.equal(after[name], before[name]) for name in others)
    assert f"{len(encoder)} of {len(encoder)} tensors" in warm.lines()[0]
    assert set(warm.left_over) == {name for name in source if "query_encoder" not in name}


def test_a_run_begins_with_them_and_is_resumed_from_its_own(
    run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "second"
    words = ["pretrain", str(videos), "--out", str(out), *SMALL_FLAGS, "--model.init-from", str(run)]
    assert main([*words, "--optim.epochs", "1", "--optim.lr", "0", "--method.key-momentum", "1"]) == 0
    assert f"encoder from {run}" in capsys.readouterr().out
    name = "query_encoder.layers.1.weight"
    assert torch.equal(saved(out)[name], saved(run)[name])
    assert main([*words, "--optim.epochs", "2", "--optim.lr", "0", "--method.key-momentum", "1", "--resume"]) == 0
    said = capsys.readouterr().out
    assert "continuing after step" in said
    assert "encoder from" not in said


def test_the_encoder_of_the_package_is_no_image_network() -> None:
    warm = read_warm_start("small", "small")
    assert (warm.missing, warm.num_inflated, warm.left_over) == ([], 0, [])
    assert warm.lines()[0].startswith("encoder from small: small, trained on rendered people, ")


def test_another_architecture_is_refused(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"its encoder is tiny, not small; give --model\.backbone tiny"):
        read_warm_start(str(run), "small")


TORCHVISION = {
    "r3d_18": "fc.",
    "r2plus1d_18": "fc.",
    "mc3_18": "fc.",
    "s3d": "classifier.",
    "swin3d_t": "head.",
    "swin3d_b": "head.",
    "mvit_v2_s": "head.",
}
"""Torchvision's video networks, and how the names of their classifiers begin."""
IMAGES = (("resnet18", "r3d_18"), ("resnet18", "mc3_18"), ("googlenet", "i3d"))


def state_on_meta(name: str) -> dict[str, torch.Tensor]:
    """Names and shapes of a torchvision network."""
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        state: dict[str, torch.Tensor] = models.get_model(name, **options).state_dict()
    return state


@pytest.mark.parametrize(("name", "head"), TORCHVISION.items())
def test_torchvisions_video_weights_fit_but_for_the_classifier(name: str, head: str) -> None:
    state = state_on_meta(name)
    warm = fitted(from_state(state), "weights.pth", name)
    assert (warm.missing, warm.num_inflated) == ([], 0)
    assert set(warm.weights) | set(warm.left_over) == set(state)
    assert warm.left_over
    assert all(left.startswith(head) for left in warm.left_over)


@pytest.mark.parametrize(("name", "backbone"), IMAGES)
def test_image_networks_are_inflated(name: str, backbone: str) -> None:
    warm = fitted(from_state(state_on_meta(name)), "weights.pth", backbone)
    with torch.device("meta"):
        own = build_backbone(backbone).state_dict()
    assert {key: value.shape for key, value in warm.weights.items()} == {key: own[key].shape for key in warm.weights}
    assert not warm.missing
    assert warm.num_inflated == sum(value.ndim == 5 for value in own.values())
    assert "inflated over time" in warm.lines()[0]


def test_an_inflated_convolution_says_of_a_still_video_what_it_said_of_the_picture() -> None:
    torch.manual_seed(0)
    network = models.resnet18()
    warm = fitted(from_state(network.state_dict()), "weights.pth", "r3d_18")
    encoder = build_backbone("r3d_18")
    encoder.load_state_dict({**encoder.state_dict(), **warm.weights})
    picture = torch.randn(1, 3, 16, 16)
    video = picture[:, :, None].expand(-1, -1, 5, -1, -1)
    with torch.no_grad():
        # The first and the last frame see the padding.
        found = encoder.get_submodule("stem").eval()(video)[:, :, 1:-1]
        expected = network.eval().relu(network.bn1(network.conv1(picture)))
    torch.testing.assert_close(found, expected[:, :, None].expand_as(found), rtol=1e-4, atol=1e-5)
    assert torch.equal(warm.weights["layer2.0.conv1.1.weight"], network.layer2[0].bn1.weight)


def test_what_fits_nowhere_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing, image = tmp_path / "nothing.pth", tmp_path / "image.pth"
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, nothing)
    torch.save(models.resnet18().state_dict(), image)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    empty, out = tmp_path / "empty", tmp_path / "run"
    empty.mkdir()
    for source, said in (
        (nothing, "nothing.pth: it gives only 0% of the weights of r2plus1d_18"),
        (image, "layers are not those of r2plus1d_18 (`conv1.weight`, (64, 3, 7, 7) where it has `stem.0.weight`"),
        (tmp_path / "none.pth", "none.pth: no such checkpoint file"),
        ("torchvision:r2plus1d_18", "not in PyTorch's cache ("),
        ("torchvision:r2plus1d", "torchvision has no such network; did you mean `r2plus1d_18`?"),
    ):
        words = ["pretrain", str(empty), "--out", str(out), "--model.backbone", "r2plus1d_18"]
        assert main([*words, "--model.init-from", str(source)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert not out.exists()


def test_a_name_of_torchvision_is_looked_up_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / Path(models.get_model_weights("resnet18").DEFAULT.url).name
    file.parent.mkdir()
    torch.save(models.resnet18().state_dict(), file)
    warm = read_warm_start("torchvision:resnet18", "mc3_18")
    assert "encoder from torchvision:resnet18: supervised image network, 100 of 100 tensors" in warm.lines()[0]
    assert list(warm.left_over) == ["fc.weight", "fc.bias"]


def test_what_is_not_loaded_is_told_with_the_reason(run: Path) -> None:
    found = read_encoder(encoder_file(run))
    weights = {name: value for name, value in found.weights.items() if name != "layers.1.weight"}
    weights["layers.2.bias"] = torch.zeros(7)
    lines = fitted(replace(found, weights=weights), "a.pth", "tiny").lines()
    assert "`layers.1.weight` (not in the file), `layers.2.bias` ((7,) in the file, not (16,))" in lines[1]
    assert "in the file, not of the encoder: " in lines[2]


def test_a_run_has_one_beginning(run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", str(videos), *SMALL_FLAGS, "--model.init-from", "small"]
    last = str(run / "checkpoints" / "last.pt")
    assert main([*words, "--out", str(tmp_path / "third"), "--resume-from", last]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--model.init-from small, --resume-from {last}: " in line
    assert "give one of them" in line
    assert main([*words, "--out", str(run), "--resume", "--optim.epochs", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--model.init-from small: the run in" in line
    assert "drop the flag" in line
