"""In float32 the encoders round no more than the same networks as they are usually written."""

import pytest
import torch
from torch import Tensor, nn

from fima.backbones.i3d import I3D
from fima.backbones.registry import build_backbone
from fima.torch_tools.precision import memory_format
from textbook import TextbookI3D

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MOST = 1.25
"""Of the textbook's own error: room for sums that other processors take in another order."""


def features_and_gradients(network: nn.Module, clip: Tensor) -> list[Tensor]:
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    features = network(clip)
    return [features.detach(), *torch.autograd.grad(features.square().mean(), weights)]


def test_i3d_rounds_no_more_than_the_textbook() -> None:
    torch.manual_seed(0)
    encoder = build_backbone("i3d").train()
    assert isinstance(encoder, I3D)
    clip = torch.randn(2, 3, 9, 45, 37)
    ours = features_and_gradients(encoder, clip)
    usual = features_and_gradients(TextbookI3D(encoder), clip)
    exact = features_and_gradients(encoder.double(), clip.double())

    def errors(found: list[Tensor]) -> Tensor:
        return torch.stack([(a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)])

    assert errors(ours)[0] <= MOST * errors(usual)[0]
    assert errors(ours).median() <= MOST * errors(usual).median()
    assert errors(usual).median() > 0


@pytest.mark.parametrize(
    ("setting", "precision", "device", "contiguous"),
    [
        ("auto", "fp32", CPU, True),
        ("auto", "bf16", CPU, False),
        ("auto", "fp32", GPU, False),
        ("channels_last", "fp32", CPU, False),
        ("contiguous", "bf16", GPU, True),
    ],
)
def test_only_float32_on_a_cpu_is_contiguous_by_default(
    setting: str, precision: str, device: torch.device, contiguous: bool
) -> None:
    found = memory_format(setting, precision, device)  # type: ignore[arg-type]
    assert found == (torch.contiguous_format if contiguous else torch.channels_last_3d)
