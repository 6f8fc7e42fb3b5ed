import math

import pytest
import torch

from fima.config import OptimConfig
from fima.train.schedule import cosine, learning_rate


def test_cosine_starts_at_lr_and_would_reach_zero_after_the_last_epoch() -> None:
    optim = OptimConfig(epochs=100, lr=0.01)
    assert learning_rate(optim, 0) == 0.01
    assert learning_rate(optim, 50) == pytest.approx(0.005)
    assert learning_rate(optim, 99) == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 0.99)))
    assert learning_rate(optim, 100) == pytest.approx(0)


def test_step_multiplies_at_each_milestone() -> None:
    optim = OptimConfig(epochs=150, lr=0.01, schedule="step", milestones=(60, 120))
    rates = [learning_rate(optim, epoch) for epoch in (0, 59, 60, 119, 120, 149)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_constant() -> None:
    assert learning_rate(OptimConfig(schedule="constant", lr=0.3), 42) == 0.3


def test_warmup_rises_linearly_and_then_the_cosine_begins() -> None:
    optim = OptimConfig(epochs=14, lr=0.05, warmup_epochs=4, warmup_lr=0.01)
    assert [learning_rate(optim, epoch) for epoch in range(5)] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert learning_rate(optim, 9) == pytest.approx(0.025)


def test_every_epoch_of_a_warmup_learns() -> None:
    """As `LinearLR(start_factor=1 / warmup_epochs)` of PyTorch, which refuses a factor of 0."""
    weight = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([weight], lr=0.08)
    schedule = torch.optim.lr_scheduler.LinearLR(sgd, start_factor=1 / 4, total_iters=4)
    expected = []
    for _ in range(5):
        expected.append(schedule.get_last_lr()[0])
        sgd.step()
        schedule.step()
    optim = OptimConfig(epochs=14, lr=0.08, warmup_epochs=4)
    assert [learning_rate(optim, epoch) for epoch in range(5)] == pytest.approx(expected)
    assert expected[:2] == pytest.approx([0.02, 0.035])


def test_warmup_longer_than_the_run() -> None:
    optim = OptimConfig(epochs=2, lr=0.04, warmup_epochs=4, warmup_lr=0.02)
    assert [learning_rate(optim, epoch) for epoch in range(2)] == pytest.approx([0.02, 0.025])


def test_a_cosine_goes_from_start_to_end() -> None:
    assert [cosine(0.9, 1.0, done) for done in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1.0])
    assert cosine(0.04, 0.4, 0.25) == pytest.approx(0.4 - 0.36 * (1 + math.sqrt(0.5)) / 2)
    assert cosine(0.9, None, 0.3) == 0.9
