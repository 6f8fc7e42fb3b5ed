from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fima.config import MethodConfig, ModelConfig
from fima.engine import distributed
from fima.losses import cell_motion
from fima.model import build_method
from fima.model.inputs import ClipInputs
from tests.gloo import run_processes

MODEL = ModelConfig(backbone="tiny", projector_hidden=32, embedding_dim=16, decoder_dim=32)
METHODS = {
    "fima": MethodConfig(queue_size=21, cell_queue_size=100, key_momentum=0.9),
    "moco": MethodConfig(name="moco", queue_size=5, key_momentum=0.9),
    "no_decoder": MethodConfig(queue_size=8, cell_queue_size=0, decoder=False, frame_weight=0),
}
NUM_STEPS = 2


def clip_inputs(seed: int, batch_size: int) -> ClipInputs:
    """Random inputs, 8 frames of 32 px."""
    generator = torch.Generator().manual_seed(seed)
    full, whole, early, late = torch.randn(4, batch_size, 3, 8, 32, 32, generator=generator, dtype=torch.float64)
    r = torch.rand(batch_size, 4, generator=generator, dtype=torch.float64)
    box = torch.stack([0.3 * r[:, 0], 0.3 * r[:, 1], 0.7 + 0.3 * r[:, 2], 0.7 + 0.3 * r[:, 3]], dim=1)
    return ClipInputs(full=full, full_difference=whole, early_difference=early, late_difference=late, box=box)


def rows_of(clip: ClipInputs, first: int, last: int) -> ClipInputs:
    """Some samples of a batch."""
    return ClipInputs(**{name: value[first:last] for name, value in vars(clip).items()})


def run_steps(rank: int, name: str, splits: list[tuple[int, int]]) -> dict[str, Any]:
    """Losses, gradients and queues of two steps on this process's rows of the global batch."""
    torch.manual_seed(0)
    method = build_method(MODEL, METHODS[name]).double().eval()
    network = DistributedDataParallel(method) if distributed.world_size() > 1 else method
    result: dict[str, Any] = {}
    for step in range(NUM_STEPS):
        clips = [rows_of(clip_inputs(2 * step + clip, splits[-1][1]), *splits[rank]) for clip in range(2)]
        step_losses = network(*clips)
        network.zero_grad()
        torch.autograd.backward(step_losses.total)
        result[f"total{step}"] = distributed.all_reduce_mean(step_losses.total)
        result |= {f"{part}{step}": value for part, value in (step_losses.parts | step_losses.stats).items()}
        with torch.no_grad():
            for key, parameter in method.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, key
                    result[f"gradient{step}.{key}"] = parameter.grad.clone()
                    parameter.sub_(0.01 * parameter.grad)
    result |= {f"{key}.keys": queue.keys for key, queue in method.queues.items()}
    return result | {f"{key}.position": queue.position for key, queue in method.queues.items()}


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one(name: str, tmp_path: Path) -> None:
    alone = run_steps(0, name, [(0, 6)])
    for result in run_processes(run_steps, 2, tmp_path, name, [(0, 3), (3, 6)]):
        assert result.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(result[key], value, rtol=1e-9, atol=1e-11)


def test_two_processes_with_unequal_batches_equal_one(tmp_path: Path) -> None:
    alone = run_steps(0, "fima", [(0, 5)])
    for result in run_processes(run_steps, 2, tmp_path, "fima", [(0, 2), (2, 5)]):
        for key in alone:
            if not key.startswith(("positive", "negative", "instance_top1", "foreground", "cells_with")):
                torch.testing.assert_close(result[key], alone[key], rtol=1e-9, atol=1e-11)


def collectives(rank: int) -> dict[str, Tensor]:
    """What the collectives say in a group of three with 3, 1 and 0 rows."""
    assert distributed.world_size() == 3
    assert distributed.rank() == rank
    assert distributed.is_main() == (rank == 0)
    distributed.barrier()
    rows = torch.arange((3, 1, 0)[rank])[:, None] + 10.0 * rank
    shuffled, order = distributed.shuffle_rows(rows)
    assert shuffled.shape == rows.shape
    assert torch.equal(distributed.gather_rows(shuffled), distributed.gather_rows(rows)[order])
    assert torch.equal(distributed.unshuffle_rows(shuffled, order), rows)
    return {
        "gathered": distributed.gather_rows(rows),
        "sum": distributed.all_reduce_sum(torch.tensor(float(rank))),
        "mean": distributed.all_reduce_mean(torch.tensor(float(rank))),
        "global_mean": distributed.all_reduce_mean(distributed.global_mean(rows[:, 0], rows[:, 0] != 1)),
        "order": order,
    }


def test_collectives_take_unequal_numbers_of_rows(tmp_path: Path) -> None:
    results = run_processes(collectives, 3, tmp_path)
    for result in results:
        assert result["gathered"].tolist() == [[0], [1], [2], [10]]
        assert result["sum"] == 3
        assert result["mean"] == 1
        assert result["global_mean"] == 4
        assert torch.equal(result["order"], results[0]["order"])


def cell_loss_of_half(rank: int) -> dict[str, Tensor]:
    """Cell loss and its gradient where only the first process has positives."""
    generator = torch.Generator().manual_seed(rank)
    predictions, keys = torch.randn(2, 2, 4, 8, generator=generator)
    predictions.requires_grad_()
    pairs = torch.full((2, 4, 4), rank == 0)
    loss = cell_motion(predictions, keys, pairs, distributed.gather_rows(keys).flatten(0, 1), temperature=1.0)
    (gradient,) = torch.autograd.grad(loss, predictions)
    return {"loss": loss.detach(), "gradient": gradient, "mean": distributed.all_reduce_mean(loss)}


def test_a_process_without_positives_adds_nothing(tmp_path: Path) -> None:
    first, second = run_processes(cell_loss_of_half, 2, tmp_path)
    assert second["loss"] == 0
    assert (second["gradient"] == 0).all()
    torch.testing.assert_close(first["mean"], first["loss"] / 2)
    assert first["loss"] > 0


def test_alone_every_collective_is_the_identity() -> None:
    x = torch.rand(3, 2, requires_grad=True)
    distributed.barrier()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert torch.equal(distributed.gather_rows(x), x)
    assert not distributed.gather_rows(x).requires_grad
    assert torch.equal(distributed.all_reduce_sum(x), x)
    shuffled, order = distributed.shuffle_rows(x)
    assert torch.equal(shuffled, x)
    assert torch.equal(distributed.unshuffle_rows(shuffled, order), x)
    assert distributed.global_mean(x[:, 0], torch.zeros(3, dtype=torch.bool)) == 0


def join_from_environment(rank: int) -> dict[str, Tensor]:
    """Without `torchrun`'s variables there is nothing to join; an existing group is left alone."""
    device = distributed.init_from_environment(torch.device("cpu"))
    return {"world_size": torch.tensor(distributed.world_size()), "is_cpu": torch.tensor(device.type == "cpu")}


def test_joining_twice_or_alone_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.init_from_environment(torch.device("cpu")) == torch.device("cpu")
    assert not distributed.is_initialized()
    distributed.shutdown()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for result in run_processes(join_from_environment, 2, tmp_path):
        assert (int(result["world_size"]), bool(result["is_cpu"])) == (2, True)
