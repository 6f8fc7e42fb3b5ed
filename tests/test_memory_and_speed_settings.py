"""`model.recompute` and `model.compile` change what a step costs, not what it computes."""

import shutil
from dataclasses import replace
from typing import Literal

import pytest
import torch

from fima.backbones.registry import build_backbone
from fima.config import MethodConfig, ModelConfig
from fima.method.fima import FIMA
from fima.method.inputs import StepLosses
from fima.torch_tools.precision import autocast
from tests.test_fima import clip_inputs

CPU = torch.device("cpu")
SMALL = ModelConfig(projector_hidden=16, embedding_dim=8, decoder_dim=16, decoder_heads=2, decoder_layers=1)


def build(model: ModelConfig) -> FIMA:
    torch.manual_seed(0)
    return FIMA(model, MethodConfig(queue_size=4, cell_queue_size=0)).train()


def step(network: FIMA, precision: Literal["fp32", "bf16"] = "fp32") -> StepLosses:
    torch.manual_seed(1)
    with autocast(CPU, precision):
        losses: StepLosses = network(*(clip_inputs(seed, 2, frames=16) for seed in (1, 2)))
    torch.autograd.backward(losses.total)
    return losses


def assert_same_step(ours: FIMA, plain: FIMA, *, rtol: float, atol: float) -> None:
    for (name, weight), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if expected.grad is not None:
            assert weight.grad is not None, name
            torch.testing.assert_close(weight.grad, expected.grad, rtol=rtol, atol=atol, msg=name)
    for (name, value), buffer in zip(ours.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(value, buffer, rtol=rtol, atol=atol, msg=name)


# I3D in bfloat16 takes over ten minutes on CPUs without it; what is recomputed under autocast, `tiny` shows as well.
@pytest.mark.parametrize(
    ("backbone", "precision"),
    [("tiny", "fp32"), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("tiny", "bf16"), ("i3d", "fp32")))],
)
def test_recomputed_activations_change_nothing(backbone: str, precision: Literal["fp32", "bf16"]) -> None:
    plain = build(replace(SMALL, backbone=backbone))
    recomputing = build(replace(SMALL, backbone=backbone, recompute=True))
    losses, expected = step(recomputing, precision), step(plain, precision)
    torch.testing.assert_close(losses.total, expected.total, rtol=0, atol=0)
    assert_same_step(recomputing, plain, rtol=0, atol=0)
    assert int(next(value for name, value in recomputing.query_encoder.named_buffers() if "num_batches" in name)) == 2


def test_recomputing_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {}
    for recompute in (False, True):
        network = build(replace(SMALL, backbone="i3d", recompute=recompute))
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(*(clip_inputs(seed, 2, frames=16) for seed in (1, 2)))
        kept[recompute] = sum(sizes.values())
    assert kept[True] < kept[False] / 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_encoders_compute_the_same(recompute: bool) -> None:
    model = replace(SMALL, backbone="tiny")
    compiled, plain = build(replace(model, recompute=recompute)), build(model)
    names = list(compiled.state_dict())
    for network in (compiled.query_encoder, compiled.key_encoder):
        network.compile()
    losses, expected = step(compiled), step(plain)
    assert list(compiled.state_dict()) == names
    torch.testing.assert_close(losses.total, expected.total, rtol=1e-5, atol=1e-5)
    assert_same_step(compiled, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
def test_the_compiler_takes_i3d_as_a_whole(gradient: bool) -> None:
    torch.manual_seed(0)
    encoder = build_backbone("i3d").eval()
    clip = torch.randn(1, 3, 8, 32, 32)
    whole = torch.compile(encoder, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(gradient):
        torch.testing.assert_close(whole(clip), encoder(clip))
