import pytest
import torch
from torch import nn
from torch.nn import functional

from fima.torch_tools.precision import autocast, lay_out

CPU = torch.device("cpu")
Size3 = tuple[int, int, int]


def fill_memory_with_nan() -> None:
    """Leave not-a-number in the memory that the next tensors get."""
    for exponent in range(10, 20):
        _ = [torch.full((2**exponent,), float("nan"), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3, 3), (1, 1, 1)), ((3, 1, 1), (1, 0, 0))])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_weight_gradients_of_short_convolutions_are_right(kernel: Size3, padding: Size3, frames: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(16, 32, kernel, padding=padding, bias=False)
    clip = torch.randn(4, 16, frames, 4, 4)
    exact = layer(clip)
    outer = torch.randn_like(exact)
    (expected,) = torch.autograd.grad(exact, layer.weight, outer)
    for _ in range(3):
        with autocast(CPU, "bf16"):
            features = layer(clip)
        fill_memory_with_nan()
        (gradient,) = torch.autograd.grad(features, layer.weight, outer.to(features.dtype))
        assert ((gradient - expected).norm() / expected.norm()) < 0.02


def test_pictures_of_fewer_rows_than_the_kernel_are_computed_as_they_are() -> None:
    torch.manual_seed(0)
    clip, weight = torch.randn(2, 3, 2, 5), torch.randn(4, 3, 3, 1)
    expected = functional.conv2d(clip, weight, stride=(1, 1), padding=(1, 0))
    with autocast(CPU, "bf16"):
        named = functional.conv2d(clip, weight, stride=(1, 1), padding=(1, 0))
        placed = functional.conv2d(clip, weight, None, (1, 1), (1, 0))
    assert torch.equal(named, expected), "in float32"
    torch.testing.assert_close(placed.float(), expected, rtol=0.05, atol=0.05)


def test_the_precision_is_the_one_that_was_asked_for() -> None:
    layer, clip = nn.Conv3d(3, 4, 3, padding=1), torch.randn(1, 3, 4, 8, 8)
    with autocast(CPU, "bf16"):
        assert layer(clip).dtype == torch.bfloat16
        assert layer(clip[:, :, :2]).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert layer(clip).dtype == torch.float32


def test_weights_of_other_than_volumes_stay_as_they_are() -> None:
    volumes, pictures = nn.Conv3d(2, 3, 3), nn.Conv2d(2, 3, 3)
    network = nn.ModuleList([volumes, pictures, nn.Linear(2, 3)])
    lay_out(network, torch.channels_last_3d)
    assert volumes.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert pictures.weight.is_contiguous()
    lay_out(network, torch.contiguous_format)
    assert volumes.weight.is_contiguous()
