from typing import Any

import pytest
import torch
from torch import Tensor

from fima.errors import ConfigError
from fima.model.backbones import BACKBONES, build_backbone
from fima.model.backbones.i3d import same_padding
from tests.reference import golden_numbers, noise, noise_state

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


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_makes_a_map_of_its_own_number_of_features(name: str) -> None:
    network = build_backbone(name).eval()
    with torch.no_grad():
        features = network(torch.rand(1, 3, 8, 64, 64))
    assert features.shape[:2] == (1, network.num_features)


def test_tiny_is_small_and_has_two_slices_of_16_cells() -> None:
    network = build_backbone("tiny")
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
    assert network(torch.rand(2, 3, 8, 64, 64)).shape == (2, 512, 2, 4, 4)


def test_i3d_takes_sizes_that_its_strides_do_not_divide() -> None:
    with torch.no_grad():
        assert build_backbone("i3d").eval()(torch.rand(1, 3, 9, 70, 112)).shape == (1, 1024, 1, 3, 4)


def test_same_padding_puts_the_larger_half_behind() -> None:
    assert same_padding((7, 7, 7), (2, 2, 2)) == [2, 3, 2, 3, 2, 3]
    assert same_padding((1, 3, 3), (1, 2, 2)) == [0, 1, 0, 1, 0, 0]


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"resnet: must be one of i3d, r2plus1d_18, r3d_18, tiny"):
        build_backbone("resnet")
