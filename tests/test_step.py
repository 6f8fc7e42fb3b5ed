from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fima.backbones.base import Backbone
from fima.backbones.registry import BACKBONES
from fima.data.datasets import list_videos
from fima.data.loader import PretrainBatch, build_pretrain_loader
from fima.method.fima import FIMA
from fima.method.inputs import ClipInputs, StepLosses
from fima.method.queue import KeyQueue
from fima.train.failures import NotFiniteError
from fima.train.pretrain import pretrain_step
from tests.small_runs import SMALL_CONFIG, make_videos, with_settings

MOCO = with_settings("method", name="moco")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> PretrainBatch:
    """Four videos."""
    videos = list_videos(make_videos(tmp_path_factory.mktemp("videos")), "train")
    return next(iter(build_pretrain_loader(videos, SMALL_CONFIG.data, batch_size=4, seed=0)))


class MeanLoss(nn.Module):
    """A loss that is a mean over the videos, so that it does not matter how they are split."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.factor = factor
        self.updates: list[bool] = []

    def forward(self, a: ClipInputs, b: ClipInputs, *, update_keys: bool) -> StepLosses:
        """The mean of the squared difference of the clips' means."""
        self.updates.append(update_keys)
        each: Tensor = (a.full.mean(dim=(1, 2, 3, 4)) - self.weight * b.full.mean(dim=(1, 2, 3, 4))).square()
        loss = each.mean() * self.factor
        return StepLosses(total=loss, parts={"instance": loss.detach()}, stats={}, query=each.detach()[:, None])


@pytest.mark.parametrize("num_parts", [2, 3, 4, 9])
def test_parts_give_the_gradient_and_the_loss_of_the_whole(batch: PretrainBatch, num_parts: int) -> None:
    whole, parts = MeanLoss(), MeanLoss()
    device = torch.device("cpu")
    values = pretrain_step(whole, MOCO, batch, device).read()
    split_values = pretrain_step(parts, with_settings("optim", MOCO, accumulate=num_parts), batch, device).read()
    assert whole.weight.grad is not None
    assert parts.weight.grad is not None
    torch.testing.assert_close(parts.weight.grad, whole.weight.grad)
    assert split_values == pytest.approx(values)
    assert values["loss"] == pytest.approx(values["instance"])
    assert whole.updates == [True]
    assert parts.updates == [True, *[False] * (min(num_parts, 4) - 1)]


def test_the_key_networks_move_once_and_every_key_enters_the_queue(batch: PretrainBatch) -> None:
    config = replace(MOCO, method=replace(MOCO.method, queue_size=8, key_momentum=0.5))
    moved = {}
    for accumulate in (1, 2):
        torch.manual_seed(0)
        method = FIMA(config.model, config.method)
        with torch.no_grad():
            for weight in method.key_projector.parameters():
                weight.zero_()
        pretrain_step(method, with_settings("optim", config, accumulate=accumulate), batch, torch.device("cpu"))
        moved[accumulate] = torch.cat([weight.flatten() for weight in method.key_projector.parameters()])
        assert int(method.queues["instance"].position) == 0
    assert moved[1].any()
    torch.testing.assert_close(moved[2], moved[1])


class WithoutBatchNorm(Backbone):
    """An encoder of one convolution, which sees each video by itself."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(3, self.num_features, 3, 2, 1)

    def forward(self, clip: Tensor) -> Tensor:
        """Feature map (B, 8, t, h, w) of clips (B, 3, T, H, W)."""
        features: Tensor = self.layer(clip).relu()
        return features


@pytest.mark.parametrize(("name", "parts_are_exact"), [("moco", True), ("fima", False)])
def test_without_batch_norm_only_negatives_of_the_batch_depend_on_the_parts(
    name: str, parts_are_exact: bool, batch: PretrainBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a queue that nothing enters during the step, the instance loss compares each video by itself."""
    monkeypatch.setitem(BACKBONES.registered, "without_batch_norm", WithoutBatchNorm)
    monkeypatch.setattr(KeyQueue, "write", lambda queue, rows, video_ids: None)
    config = with_settings("model", with_settings("method", name=name), backbone="without_batch_norm")
    found = []
    for accumulate in (1, 2, 4):
        torch.manual_seed(0)
        method = FIMA(config.model, config.method).eval()
        pretrain_step(method, with_settings("optim", config, accumulate=accumulate), batch, torch.device("cpu"))
        weight = method.query_encoder.get_parameter("layer.weight")
        assert weight.grad is not None
        found.append(weight.grad)
    for gradient in found[1:]:
        deviation = float((gradient - found[0]).norm() / found[0].norm())
        assert (deviation < 1e-5) == parts_are_exact
        assert (deviation < 1e-2) == parts_are_exact


def test_a_part_that_is_not_finite_names_the_whole_batch(batch: PretrainBatch) -> None:
    network = MeanLoss(float("inf"))
    measured = pretrain_step(network, with_settings("optim", MOCO, accumulate=2), batch, torch.device("cpu"))
    with pytest.raises(NotFiniteError, match="instance inf") as caught:
        measured.read()
    assert all(path in str(caught.value) for path in batch.paths)


META = torch.device("meta")
"""Tensors there have no values: whatever would make a GPU wait until the host has looked at one is an error."""


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["moco", "fima", "dense queue"])
def test_the_host_looks_at_no_value_during_a_step(name: str, accumulate: int, batch: PretrainBatch) -> None:
    config = SMALL_CONFIG if name != "moco" else MOCO
    config = replace(config, method=replace(config.method, cell_queue_size=32 if name == "dense queue" else 0))
    network = FIMA(config.model, config.method).to(META).to(memory_format=torch.channels_last_3d)
    pretrain_step(network, with_settings("optim", config, accumulate=accumulate), batch, META)
    gradients = [weight.grad for weight in network.parameters() if weight.requires_grad]
    assert all(gradient is not None and gradient.is_meta for gradient in gradients)


@pytest.mark.parametrize("look", [Tensor.item, Tensor.cpu, Tensor.tolist, Tensor.nonzero, bool])
def test_the_test_above_would_see_a_look(look: Callable[[Tensor], object]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        look(torch.ones((), device=META))
