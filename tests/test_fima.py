import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fima.config import MethodConfig, ModelConfig
from fima.method.fima import FIMA
from fima.method.inputs import VIEWS, ClipInputs, StepLosses
from fima.method.instance import InstanceTerm
from fima.method.prediction import early_and_late

MODEL = ModelConfig(backbone="tiny", projector_hidden=32, embedding_dim=16, decoder_dim=32)
METHOD = MethodConfig(queue_size=12, cell_queue_size=40)
ABLATIONS = {
    "full": METHOD,
    "moco": dataclasses.replace(METHOD, name="moco"),
    "frame only": dataclasses.replace(METHOD, cell_weight=0, instance_weight=0),
    "motion only": dataclasses.replace(METHOD, instance_weight=0),
    "light": dataclasses.replace(METHOD, instance_weight=0, decoder=False, foreground=False),
    "cell only": dataclasses.replace(METHOD, frame_weight=0),
    "instance only": dataclasses.replace(METHOD, frame_weight=0, cell_weight=0),
    "no decoder": dataclasses.replace(METHOD, decoder=False),
    "no foreground": dataclasses.replace(METHOD, foreground=False),
    "no cell queue": dataclasses.replace(METHOD, cell_queue_size=0),
}


def clip_inputs(seed: int, batch_size: int = 3, frames: int = 8) -> ClipInputs:
    generator = torch.Generator().manual_seed(seed)
    full, whole, early, late = torch.randn(4, batch_size, 3, frames, 64, 64, generator=generator)
    r = torch.rand(batch_size, 4, generator=generator)
    box = torch.stack([0.3 * r[:, 0], 0.3 * r[:, 1], 0.7 + 0.3 * r[:, 2], 0.7 + 0.3 * r[:, 3]], dim=1)
    return ClipInputs(views=dict(zip(VIEWS, (full, whole, early, late), strict=True)), box=box)


def build(method: MethodConfig = METHOD, model: ModelConfig = MODEL) -> FIMA:
    torch.manual_seed(0)
    return FIMA(model, method)


def step(network: nn.Module, batch_size: int = 3, frames: int = 8) -> StepLosses:
    result = network(clip_inputs(1, batch_size, frames), clip_inputs(2, batch_size, frames))
    assert isinstance(result, StepLosses)
    return result


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_parameter_that_exists_and_is_trained_gets_a_gradient(name: str) -> None:
    network = build(ABLATIONS[name])
    torch.autograd.backward(step(network).total)
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad != key.startswith("key_"), key
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_parts_are_summed_with_their_weights_and_detached() -> None:
    method = dataclasses.replace(METHOD, instance_weight=0.5, frame_weight=2.0, cell_weight=3.0)
    result = step(build(method))
    parts = result.parts
    assert parts.keys() == {"instance", "frame", "cell"}
    torch.testing.assert_close(result.total.detach(), 0.5 * parts["instance"] + 2 * parts["frame"] + 3 * parts["cell"])
    assert not any(value.requires_grad for value in (*parts.values(), *result.stats.values(), result.query))
    assert {"positive_similarity", "negative_similarity", "instance_top1", "foreground_share"} <= result.stats.keys()
    assert result.query.shape == (3, 16)


def test_moco_is_the_instance_part_of_fima() -> None:
    fima, moco = build(), build(ABLATIONS["moco"])
    moco.load_state_dict(fima.state_dict(), strict=False)
    for _ in range(2):
        full, alone = step(fima), step(moco)
        torch.testing.assert_close(alone.parts["instance"], full.parts["instance"])
        assert alone.total.item() == alone.parts["instance"].item()
    torch.testing.assert_close(moco.queues["instance"].keys, fima.queues["instance"].keys)
    assert alone.parts.keys() == {"instance"}
    assert [type(term) for term in moco.terms] == [InstanceTerm]


def encoder_passes(network: FIMA) -> list[str]:
    """Which encoders a step runs, in order."""
    passes: list[str] = []
    network.query_encoder.register_forward_hook(lambda *_: passes.append("query"))
    network.key_encoder.register_forward_hook(lambda *_: passes.append("key"))
    step(network)
    return passes


@pytest.mark.parametrize(
    ("name", "num_key_passes"),
    [
        *[("full", 8), ("motion only", 8), ("light", 6)],
        *[("frame only", 4), ("cell only", 4), ("moco", 2), ("instance only", 2)],
    ],
)
def test_a_loss_that_is_off_skips_its_passes(name: str, num_key_passes: int) -> None:
    passes = encoder_passes(build(ABLATIONS[name]))
    assert passes.count("key") == num_key_passes
    assert passes.count("query") == 2


def test_only_what_is_in_use_exists() -> None:
    def parts(name: str) -> set[str]:
        return {key.partition(".")[0] for key in build(ABLATIONS[name]).state_dict()}

    base = {"query_encoder", "key_encoder", "projector", "key_projector", "queue"}
    decoder = {"decoder", "reduce", "expand"}
    assert parts("full") == base | decoder | {"cls_token", "motion_queue", "cell_queue"}
    assert parts("no cell queue") == base | decoder | {"cls_token", "motion_queue"}
    assert parts("frame only") == (base | decoder | {"cls_token", "motion_queue"}) - {"queue"}
    assert parts("light") == (base | {"motion_queue", "cell_queue"}) - {"queue"}
    assert parts("cell only") == base | decoder | {"cell_queue"}
    assert parts("no decoder") == base | {"motion_queue", "cell_queue"}
    assert parts("instance only") == parts("moco") == base
    assert build(METHOD).queues.keys() == {"instance", "frame", "cell"}
    assert build(ABLATIONS["moco"]).queues.keys() == {"instance"}


def test_the_motion_losses_are_the_same_without_the_instance_loss() -> None:
    full, motion_only = build(METHOD).eval(), build(ABLATIONS["motion only"]).eval()
    motion_only.load_state_dict(full.state_dict(), strict=False)
    parts, found = step(full).parts, step(motion_only)
    assert found.parts.keys() == {"frame", "cell"}
    torch.testing.assert_close(found.parts["frame"], parts["frame"])
    torch.testing.assert_close(found.parts["cell"], parts["cell"])
    torch.testing.assert_close(found.total.detach(), parts["frame"] + parts["cell"])


def test_each_ablation_changes_its_own_loss_only() -> None:
    full = step(build(METHOD).eval()).parts
    no_foreground = step(build(ABLATIONS["no foreground"]).eval())
    assert no_foreground.stats["foreground_share"] == 1
    assert no_foreground.parts["cell"] != full["cell"]
    torch.testing.assert_close(no_foreground.parts["frame"], full["frame"])
    no_queue = build(ABLATIONS["no cell queue"]).eval()
    no_queue.load_state_dict(build(METHOD).state_dict(), strict=False)
    without = step(no_queue).parts
    assert without["cell"] < full["cell"]
    torch.testing.assert_close(without["frame"], full["frame"])


@pytest.mark.parametrize(
    ("num_slices", "early", "late"), [(1, [0], [0]), (2, [0], [1]), (3, [0, 1], [1, 2]), (4, [0, 1], [2, 3])]
)
def test_slices_are_grouped_into_early_and_late(num_slices: int, early: list[int], late: list[int]) -> None:
    slices = normalize(torch.randn(2, num_slices, 8), dim=-1)
    frames = early_and_late(slices)
    for frame, group in zip(frames, (early, late), strict=True):
        torch.testing.assert_close(frame, normalize(slices[:, group].mean(dim=1), dim=-1))


@pytest.mark.parametrize("frames", [4, 8, 12, 16])
def test_any_number_of_slices_makes_a_step(frames: int) -> None:
    for name in ("full", "no decoder"):
        network = build(ABLATIONS[name])
        result = step(network, frames=frames)
        assert result.total.isfinite()
        num_slices, height, width = network.query_encoder(clip_inputs(1, frames=frames).full).shape[2:]
        assert num_slices == frames // 4
        assert int(network.queues["cell"].position) == 2 * 3 * num_slices * height * width % 40


def test_short_batches_and_batches_larger_than_the_queues_make_a_step() -> None:
    network = build(dataclasses.replace(METHOD, queue_size=3, cell_queue_size=7))
    for batch_size in (4, 1, 2):
        assert step(network, batch_size=batch_size).total.isfinite()
    assert int(network.queues["instance"].position) == 2 * 7 % 3
    assert int(network.queues["frame"].position) == 4 * 7 % 3


def test_the_buffers_of_the_key_networks_are_their_own() -> None:
    """Of weights, they are an average, which test_whole_step.py compares with the equation."""
    network = build(METHOD)
    step(network)
    statistics = dict(network.query_encoder.named_buffers())
    means = [name for name in statistics if name.endswith("running_mean")]
    assert means
    for name in means:
        assert not torch.equal(network.key_encoder.get_buffer(name), statistics[name])


def test_a_step_under_autocast_has_float32_losses_near_the_exact_ones() -> None:
    network, exact = build(METHOD).eval(), build(METHOD).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = step(network)
    torch.autograd.backward(result.total)
    assert result.total.dtype == torch.float32
    assert math.isclose(result.total.item(), step(exact).total.item(), rel_tol=0.05)


def test_training_with_fima_lowers_its_loss() -> None:
    network = build(dataclasses.replace(METHOD, key_momentum=0.9))
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    totals = []
    for _ in range(12):
        result = step(network, batch_size=4)
        optimizer.zero_grad()
        torch.autograd.backward(result.total)
        optimizer.step()
        totals.append(result.total.item())
    assert totals[-1] < totals[0] - 0.5


def test_moco_needs_no_differences() -> None:
    def rgb(seed: int) -> ClipInputs:
        clip = clip_inputs(seed)
        return ClipInputs(views={"full": clip.full}, box=clip.box)

    for name in ("moco", "instance only"):
        total: Tensor = build(ABLATIONS[name])(rgb(1), rgb(2)).total
        assert total.isfinite()
