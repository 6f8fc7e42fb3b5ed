"""Convolutions by Winograd's method give PyTorch's numbers, and are taken where they are meant to be."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d
from torchvision.models import video

from fima.backbones import convolution, winograd
from fima.backbones.convolution import Conv3d, weights_transformed_once, with_fast_convolutions
from fima.backbones.registry import build_backbone
from fima.torch_tools.precision import autocast

CPU = torch.device("cpu")

LARGEST_ERROR = 2e-5
"""Of a tensor, beside its root mean square: room for rounding in float32."""


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.pow(2).mean().sqrt()).item()


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 4), (3, 7, 5), (1, 8, 9), (5, 14, 13)])
@pytest.mark.parametrize("memory_format", [torch.channels_last_3d, torch.contiguous_format])
def test_values_and_gradients_are_those_of_a_convolution(
    taps: int, size: tuple[int, int, int], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    clip = torch.randn(3, 8, *size).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(6, 8, taps, 3, 3).contiguous(memory_format=memory_format).requires_grad_()
    gradient = torch.randn(3, 6, *size)
    exact = [tensor.detach().double().requires_grad_() for tensor in (clip, weight)]
    expected = conv3d(exact[0], exact[1], padding=(taps // 2, 1, 1))
    expected_gradients = torch.autograd.grad(expected, exact, gradient.double())
    found = winograd.convolve(clip, weight)
    gradients = torch.autograd.grad(found, (clip, weight), gradient)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert found.shape == expected.shape
    for mine, theirs in zip((found, *gradients), (expected, *expected_gradients), strict=True):
        assert relative_error(mine, theirs) < LARGEST_ERROR


@pytest.mark.parametrize("block_bytes", [1, 20_000, 1 << 30])
def test_the_size_of_the_blocks_changes_nothing(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block_bytes)
    test_values_and_gradients_are_those_of_a_convolution(3, (5, 14, 13), torch.channels_last_3d)


def test_a_weight_or_a_clip_alone_takes_a_gradient() -> None:
    clip, weight = torch.randn(2, 4, 2, 6, 6), torch.randn(4, 4, 3, 3, 3)
    for learning, fixed in ((0, 1), (1, 0)):
        tensors = [clip.clone(), weight.clone()]
        tensors[learning].requires_grad_()
        torch.autograd.backward(winograd.convolve(*tensors).sum())
        both = [tensor.clone().requires_grad_() for tensor in (clip, weight)]
        torch.autograd.backward(winograd.convolve(*both).sum())
        expected = both[learning].grad
        assert expected is not None
        assert tensors[fixed].grad is None
        torch.testing.assert_close(tensors[learning].grad, expected)


class Calls:
    """Counts what goes by Winograd's method.

    Args:
        monkeypatch: puts the counters in.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.convolved = self.prepared = 0
        convolve, prepare = winograd.convolve, winograd.prepare

        def counted_convolve(x: Tensor, weight: Tensor, prepared: Tensor | None = None) -> Tensor:
            self.convolved += 1
            return convolve(x, weight, prepared)

        def counted_prepare(weight: Tensor) -> Tensor:
            self.prepared += 1
            return prepare(weight)

        monkeypatch.setattr(winograd, "convolve", counted_convolve)
        monkeypatch.setattr(winograd, "prepare", counted_prepare)


def layer_and_clip() -> tuple[Conv3d, Tensor]:
    return Conv3d(48, 48, 3, padding=1, bias=False), torch.randn(2, 48, 4, 16, 16)


@pytest.mark.skipif(not convolution.HAS_MKL, reason="PyTorch without MKL takes its own convolution")
def test_large_float32_convolutions_take_winograds_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    layer, clip = layer_and_clip()
    found = layer(clip)
    assert calls.convolved == 1
    assert relative_error(found, conv3d(clip.double(), layer.weight.double(), padding=1)) < LARGEST_ERROR


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_others_take_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    layer, clip = layer_and_clip()
    layer(clip[:1, :, :, :4, :4])
    with autocast(CPU, "bf16"):
        layer(clip)
    traced = torch.jit.trace(layer, clip, check_trace=False)  # type: ignore[no-untyped-call]
    assert "conv" in str(traced.graph)
    exported = torch.export.export(layer, (clip,))
    assert any("conv3d" in str(node.target) for node in exported.graph.nodes)
    layer.double()(clip.double())
    layer.to("meta")(clip.to("meta"))
    for changed in (
        Conv3d(48, 48, 3, padding=1),
        Conv3d(48, 48, 3, padding=1, stride=2, bias=False),
        Conv3d(48, 48, 3, padding=1, groups=2, bias=False),
        Conv3d(48, 48, 3, padding=1, padding_mode="circular", bias=False),
        Conv3d(48, 48, 3, bias=False),
        Conv3d(48, 48, (3, 1, 1), padding=(1, 0, 0), bias=False),
        Conv3d(48, 32, 3, padding=1, bias=False),
    ):
        changed(clip)
    assert calls.convolved == 0


def test_clips_that_do_not_fit_are_pytorchs_to_judge() -> None:
    layer, clip = layer_and_clip()
    assert layer(clip[0]).shape == clip[0].shape
    with pytest.raises(RuntimeError, match="to have 48 channels, but got 47 channels"):
        layer(clip[:, 1:])


@pytest.mark.skipif(not convolution.HAS_MKL, reason="PyTorch without MKL takes its own convolution")
def test_weights_are_transformed_once_for_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    layer, clip = layer_and_clip()
    layer.requires_grad_(False)
    expected = layer(clip)
    calls.prepared = 0
    with weights_transformed_once(layer):
        assert torch.equal(layer(clip), expected)
        assert torch.equal(layer(clip), expected)
        assert calls.prepared == 1
        with torch.no_grad():
            layer.weight.zero_()
    assert layer(clip).abs().max() == 0, "what was kept must not outlive the context"


def test_a_learning_weight_is_not_kept() -> None:
    layer, _ = layer_and_clip()
    with pytest.raises(AssertionError), weights_transformed_once(layer):
        pass


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18"])
def test_replaced_convolutions_keep_weights_and_names(name: str) -> None:
    torch.manual_seed(0)
    plain = getattr(video, name)(weights=None)
    state, after = dict(plain.named_parameters()), torch.get_rng_state()
    with_fast_convolutions(plain)
    assert any(isinstance(module, Conv3d) for module in plain.modules())
    assert torch.equal(torch.get_rng_state(), after)
    for parameter_name, parameter in plain.named_parameters():
        assert parameter is state.pop(parameter_name)
    assert not state


@pytest.mark.parametrize(
    "settings", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}, {"bias": True}, {"stride": 2}]
)
def test_convolutions_of_another_form_are_not_replaced(settings: dict[str, Any]) -> None:
    network = nn.Sequential(nn.Conv3d(96, 96, 3, padding=1, **({"bias": False} | settings)))
    with_fast_convolutions(network)
    assert not isinstance(network[0], Conv3d)


@pytest.mark.skipif(not convolution.HAS_MKL, reason="PyTorch without MKL takes its own convolution")
@pytest.mark.parametrize("name", ["i3d", "r2plus1d_18", "s3d"])
def test_feature_maps_stay_what_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network: nn.Module = build_backbone(name).eval()
    clip = torch.rand(2, 3, 8, 64, 64)
    calls = Calls(monkeypatch)
    with torch.no_grad():
        found = network(clip)
        assert calls.convolved > 0
        expected = network.double()(clip.double())
    assert relative_error(found, expected) < 3 * LARGEST_ERROR
