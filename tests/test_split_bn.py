from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fima.config import MethodConfig, ModelConfig
from fima.data.datasets import list_videos
from fima.errors import ConfigError
from fima.method.fima import FIMA
from fima.torch_tools import distributed
from fima.torch_tools.distributed import shuffle_rows, unshuffle_rows
from fima.train.resolve import warnings_about
from tests.small_runs import make_videos, with_settings

METHOD = MethodConfig(name="moco", queue_size=4)


def moco(split_bn: int) -> FIMA:
    torch.manual_seed(0)
    return FIMA(ModelConfig(backbone="tiny", projector_hidden=8, embedding_dim=4, split_bn=split_bn), METHOD)


def features(split_bn: int, view: Tensor, seed: int = 1) -> Tensor:
    method = moco(split_bn).train()
    torch.manual_seed(seed)
    return method.key_features(view)


@pytest.fixture
def view() -> Tensor:
    return torch.randn(8, 3, 4, 32, 32, generator=torch.Generator().manual_seed(3))


def test_each_part_has_statistics_of_its_own(view: Tensor) -> None:
    torch.manual_seed(1)
    order = torch.randperm(8)
    encoder = moco(1).train().key_encoder
    with torch.no_grad():
        expected = torch.cat([encoder(part) for part in view[order].chunk(4)])
    torch.testing.assert_close(features(4, view), expected[order.argsort()])
    assert not torch.allclose(features(4, view), features(1, view))


def test_the_parts_differ_from_step_to_step(view: Tensor) -> None:
    assert not torch.allclose(features(4, view, seed=1), features(4, view, seed=2))


def test_without_it_the_order_of_the_batch_stays(view: Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(features(1, view), moco(1).train().key_encoder(view))


def test_a_last_batch_that_is_too_small_is_split_less(view: Tensor) -> None:
    torch.testing.assert_close(features(4, view[:3]), features(1, view[:3]), rtol=1e-4, atol=1e-5)


def test_a_batch_norm_no_longer_tells_who_is_in_the_batch() -> None:
    """The leak: with one batch for both sides, a key shifted by its batch's mean says which batch it was in."""
    network = nn.BatchNorm1d(1)
    rows = torch.arange(8.0)[:, None]
    whole = network(rows)
    shuffled, deal = shuffle_rows(rows, alone=True)
    split = unshuffle_rows(torch.cat([network(part) for part in shuffled.chunk(4)]), deal, alone=True)
    assert whole.mean().abs() < 1e-6
    assert not torch.allclose(whole, split)
    assert torch.equal(unshuffle_rows(shuffled, deal, alone=True), rows)


def test_more_parts_than_half_the_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--model.split-bn 3: must be at most half the 4 videos"):
        with_settings("model", split_bn=3)
    with pytest.raises(ConfigError, match=r"half the 2 videos"):
        with_settings("optim", with_settings("model", split_bn=2), accumulate=2)


def test_fewer_parts_of_the_videos_of_each_process_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = list_videos(make_videos(tmp_path, num_per_class=10), "train")
    config = with_settings("model", with_settings("optim", batch_size=8), split_bn=4)
    assert not [text for text in warnings_about(config, videos) if "split-bn" in text]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    (said,) = [text for text in warnings_about(config, videos) if "split-bn" in text]
    assert said.startswith("--model.split-bn 4: each process has 4 videos")
    assert said.endswith("sees 2 parts of them")
