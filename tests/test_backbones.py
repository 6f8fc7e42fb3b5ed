import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fima.backbones.registry import BACKBONES, build_backbone
from fima.config import MethodConfig, ModelConfig
from fima.errors import ConfigError
from fima.method.fima import FIMA
from tests.reference import golden_numbers, noise, noise_state
from tests.test_fima import clip_inputs

SHAPES = {
    "i3d": (1024, 2, 2, 2),
    "r2plus1d_18": (512, 2, 4, 4),
    "r3d_18": (512, 2, 4, 4),
    "small": (192, 4, 4, 4),
    "tiny": (512, 4, 4, 4),
    "mc3_18": (512, 16, 4, 4),
    "s3d": (1024, 2, 2, 2),
    "swin3d_t": (768, 8, 2, 2),
    "swin3d_s": (768, 8, 2, 2),
    "swin3d_b": (1024, 8, 2, 2),
    "mvit_v2_s": (768, 8, 2, 2),
}
"""C, t, h, w for 16 frames of 64 px."""
RECORDED = {"i3d": "I3D", "r2plus1d_18": "r2plus1d_18"}


def close(values: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", RECORDED)
def test_feature_maps_agree_with_the_recorded_numbers(name: str) -> None:
    arch = RECORDED[name]
    case: dict[str, Any] = golden_numbers()[f"encoder_{arch}"]
    network = build_backbone(name).double()
    network.load_state_dict(noise_state(case["keys"]), strict=True)
    clip = noise(f"{arch}.input", case["input_shape"])
    for mode in ("eval", "train"):
        network.train(mode == "train")
        with torch.no_grad():
            features = network(clip)
        expected = case[mode]
        assert list(features.shape) == expected["feature_shape"]
        assert features.shape[1] == network.num_features
        flat = features.flatten()
        close(flat[:16], expected["feature_first16"])
        close(flat[:: flat.numel() // 16][:16], expected["feature_strided"])
        close(torch.stack([flat.mean(), flat.std()]), [expected["feature_mean"], expected["feature_std"]])
        close(features.mean(dim=(2, 3, 4)).flatten()[:16], expected["pooled_first16"])


@pytest.mark.parametrize(("name", "shape"), SHAPES.items())
def test_every_backbone_makes_the_map_that_is_documented(name: str, shape: tuple[int, int, int, int]) -> None:
    network = build_backbone(name).eval()
    with torch.no_grad():
        features = network(torch.rand(1, 3, 16, 64, 64))
    assert features.shape == (1, *shape)
    assert network.num_features == shape[0]


def test_the_documented_maps_are_these() -> None:
    """Each row of the table in docs/extend.md, worked out for 16 frames of 64 px."""
    page = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
    documented = {}
    for names, channels, sizes, slices in re.findall(r"^\| (`.*?) \| (\d+) \| (.*?) \| (\d+) \|$", page, re.MULTILINE):
        found = re.match(r"T(?:/(\d+))?, H/(\d+), W/(\d+)(;|$)", sizes)
        assert found is not None, sizes
        t, h, w = 16 // int(found[1] or 1), 64 // int(found[2]), 64 // int(found[3])
        assert int(slices) == t
        documented.update(dict.fromkeys(re.findall(r"`(\w+)`", names), (int(channels), t, h, w)))
    assert documented == SHAPES
    assert SHAPES.keys() == BACKBONES.built_in.keys()


@pytest.mark.parametrize("name", ["s3d", pytest.param("mc3_18", marks=pytest.mark.slow), "swin3d_t", "mvit_v2_s"])
def test_fima_takes_one_step_with_backbones_of_torchvision(name: str) -> None:
    """2 slices of S3D, 8 of MC3, 4 of the transformers: all of them get the motion losses' gradient."""
    torch.manual_seed(0)
    model = ModelConfig(
        backbone=name, projector_hidden=16, embedding_dim=8, decoder_dim=16, decoder_heads=2, decoder_layers=1
    )
    network = FIMA(model, MethodConfig(queue_size=4, cell_queue_size=0))
    losses = network(*(clip_inputs(seed, 2, frames=16 if name == "s3d" else 8) for seed in (1, 2)))
    assert losses.parts.keys() == {"instance", "frame", "cell"}
    losses.total.backward()
    gradients = [parameter.grad for parameter in network.query_encoder.parameters() if parameter.requires_grad]
    present = [gradient for gradient in gradients if gradient is not None]
    assert all(gradient.isfinite().all() for gradient in present)
    # The class token of MViT is only read by other tokens.
    assert len(present) >= len(gradients) - 1


def test_tiny_is_small_and_has_two_slices_of_16_cells() -> None:
    network = build_backbone("tiny")
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
    assert network(torch.rand(2, 3, 8, 64, 64)).shape == (2, 512, 2, 4, 4)


def test_small_sees_what_moves_and_nothing_else() -> None:
    network = build_backbone("small").eval()
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
    picture = torch.rand(1, 3, 1, 64, 64)
    still, other = picture.expand(-1, -1, 8, -1, -1), torch.rand(1, 3, 1, 64, 64).expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        assert torch.equal(network(still), network(other))
        assert not torch.allclose(network(torch.rand(1, 3, 8, 64, 64)), network(still))


def test_i3d_takes_sizes_that_its_strides_do_not_divide() -> None:
    with torch.no_grad():
        assert build_backbone("i3d").eval()(torch.rand(1, 3, 9, 70, 112)).shape == (1, 1024, 1, 3, 4)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"--model\.backbone resnet: no such backbone"):
        build_backbone("resnet")
    with pytest.raises(ConfigError, match=r"--model\.backbone i3: no such backbone; did you mean `i3d`"):
        build_backbone("i3")
