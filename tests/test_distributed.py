import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from communication import messages
from fima.checkpoints.checkpoint import load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.config import DataConfig, MethodConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig
from fima.method.fima import FIMA
from fima.method.inputs import VIEWS, ClipInputs
from fima.method.losses import cell_motion
from fima.torch_tools import distributed
from fima.torch_tools.precision import autocast
from fima.train import collapse
from fima.train.pretrain import pretrain
from tests.gloo import run_processes
from tests.small_runs import with_settings

MODEL = ModelConfig(backbone="tiny", projector_hidden=32, embedding_dim=16, decoder_dim=32)
METHODS = {
    "fima": MethodConfig(queue_size=21, cell_queue_size=100, key_momentum=0.9),
    "moco": MethodConfig(name="moco", queue_size=5, key_momentum=0.9),
    "same_video": MethodConfig(queue_size=21, cell_queue_size=100, key_momentum=0.9, exclude_same_video=True),
    "no_decoder": MethodConfig(queue_size=8, cell_queue_size=0, decoder=False, frame_weight=0),
}
NUM_STEPS = 2
COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "all_to_all_single")


def clip_inputs(seed: int, batch_size: int) -> ClipInputs:
    """Random inputs, 8 frames of 48 px: more cells in a step than a queue has."""
    generator = torch.Generator().manual_seed(seed)
    full, whole, early, late = torch.randn(4, batch_size, 3, 8, 48, 48, generator=generator, dtype=torch.float64)
    r = torch.rand(batch_size, 4, generator=generator, dtype=torch.float64)
    box = torch.stack([0.3 * r[:, 0], 0.3 * r[:, 1], 0.7 + 0.3 * r[:, 2], 0.7 + 0.3 * r[:, 3]], dim=1)
    views = dict(zip(VIEWS, (full, whole, early, late), strict=True))
    return ClipInputs(views=views, box=box, videos=torch.tensor([0, 1, 0, 2, 0, 1])[:batch_size])


def rows_of(clip: ClipInputs, first: int, last: int) -> ClipInputs:
    """Some samples of a batch."""
    assert clip.videos is not None
    return replace(changed(clip, lambda value: value[first:last]), videos=clip.videos[first:last])


def changed(clip: ClipInputs, change: Callable[[Tensor], Tensor]) -> ClipInputs:
    """A clip whose views and boxes are changed alike."""
    return ClipInputs(views={view: change(value) for view, value in clip.views.items()}, box=change(clip.box))


def run_steps(rank: int, name: str, splits: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Losses, gradients and queues of two steps on this process's rows of the global batch."""
    torch.manual_seed(0)
    method = FIMA(MODEL, METHODS[name]).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        network = distributed.data_parallel(method)
    result: dict[str, Tensor] = {}
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
    result |= {f"{key}.ids": queue.video_ids for key, queue in method.queues.items() if queue.video_ids is not None}
    result |= {f"{key}.keys": queue.keys for key, queue in method.queues.items()}
    return result | {f"{key}.position": queue.position for key, queue in method.queues.items()}


def collectives(rank: int, num_rows: tuple[int, int]) -> dict[str, Tensor]:
    """What the collectives say when the processes have `num_rows` rows."""
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (rank, 2, rank == 0)
    distributed.barrier()
    rows = torch.arange(num_rows[rank])[:, None] + 10.0 * rank
    shuffled, deal = distributed.shuffle_rows(rows)
    assert shuffled.shape == rows.shape
    assert torch.equal(distributed.gather_rows(shuffled), distributed.gather_rows(rows)[deal.order])
    assert torch.equal(distributed.unshuffle_rows(shuffled, deal), rows)
    mean = distributed.global_mean(rows[:, 0], rows[:, 0] != 1)
    return {
        "gathered": distributed.gather_rows(rows),
        "sum": distributed.all_reduce_sum(torch.tensor(rank + 1.0)),
        "mean": distributed.all_reduce_mean(torch.tensor(rank + 1.0)),
        "global_mean": distributed.all_reduce_mean(mean),
        "order": deal.order,
    }


def cell_loss_where_only_the_first_process_has_positives(rank: int) -> dict[str, Tensor]:
    """Cell loss, its mean over the processes, and its gradient."""
    generator = torch.Generator().manual_seed(rank)
    predictions, keys = torch.randn(2, 2, 4, 8, generator=generator)
    predictions.requires_grad_()
    pairs = torch.full((2, 4, 4), rank == 0)
    loss = cell_motion(predictions, keys, pairs, distributed.gather_rows(keys).flatten(0, 1), temperature=1.0).loss
    (gradient,) = torch.autograd.grad(loss, predictions)
    return {"loss": loss.detach(), "gradient": gradient, "mean": distributed.all_reduce_mean(loss)}


def step_of_backbone(_rank: int, backbone: str, precision: Literal["fp32", "bf16"]) -> dict[str, Tensor]:
    """A step as the training loop takes it: its loss."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        method = FIMA(replace(MODEL, backbone=backbone), METHODS["moco"])
        network = distributed.data_parallel(method.to(memory_format=torch.channels_last_3d))
        clips = [ClipInputs(views={"full": torch.randn(2, 3, 8, 32, 32)}, box=torch.zeros(2, 4)) for _ in range(2)]
        with autocast(torch.device("cpu"), precision):
            loss = network(*clips).total
        torch.autograd.backward(loss)
    assert not warned, warned[0].message
    return {"loss": loss.detach()}


@pytest.mark.parametrize(
    ("backbone", "precision"),
    [("i3d", "fp32"), ("tiny", "bf16"), pytest.param("r2plus1d_18", "fp32", marks=pytest.mark.slow)],
)
def test_a_step_of_two_processes_warns_of_nothing(backbone: str, precision: str, tmp_path: Path) -> None:
    results = run_processes(step_of_backbone, 2, tmp_path, backbone, precision)
    assert all(result["loss"].isfinite() for result in results)


def payloads(rank: int, name: str, precision: Literal["fp32", "bf16"]) -> dict[str, Tensor]:
    """Bytes that this process hands to each collective in a step of three videos, gradients included."""
    method = FIMA(MODEL, METHODS[name])
    network = DistributedDataParallel(method)
    # The same reduction of gradients as without it, but called from Python, where it is counted.
    network.register_comm_hook(dist.group.WORLD, allreduce_hook)
    counted = dict.fromkeys(COLLECTIVES, 0)

    def count(collective: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            given = args[1] if collective in ("all_gather", "all_to_all_single") else args[0]
            counted[collective] += given.nbytes
            return original(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for collective in COLLECTIVES:
            patch.setattr(dist, collective, count(collective, getattr(dist, collective)))
        clips = [rows_of(clip_inputs(clip, 6), 3 * rank, 3 * rank + 3) for clip in range(2)]
        single = [changed(clip, Tensor.float) for clip in clips]
        with autocast(torch.device("cpu"), precision):
            step_losses = network(*single)
        torch.autograd.backward(step_losses.total)
    return {collective: torch.tensor(num_bytes) for collective, num_bytes in counted.items()}


def everything(rank: int) -> dict[str, dict[str, Tensor]]:
    """All that the tests need of a process of a group of two: starting processes takes the most time."""
    os.environ["WORLD_SIZE"] = "2"
    assert distributed.init_from_environment(torch.device("cpu")) == torch.device("cpu")
    result = {name: run_steps(rank, name, [(0, 3), (3, 6)]) for name in METHODS}
    return result | {
        "unequal": run_steps(rank, "fima", [(0, 2), (2, 5)]),
        "rows 3 1": collectives(rank, (3, 1)),
        "rows 0 2": collectives(rank, (0, 2)),
        "payloads fima fp32": payloads(rank, "fima", "fp32"),
        "payloads moco bf16": payloads(rank, "moco", "bf16"),
        "positives": cell_loss_where_only_the_first_process_has_positives(rank),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return run_processes(everything, 2, tmp_path_factory.mktemp("gloo"))


def three(rank: int) -> dict[str, Tensor]:
    """The steps of one process of a group of three."""
    return run_steps(rank, "fima", [(0, 2), (2, 4), (4, 6)])


@pytest.mark.slow
def test_three_processes_equal_one(tmp_path: Path) -> None:
    check_equal(run_processes(three, 3, tmp_path / "gloo"), run_steps(0, "fima", [(0, 6)]))


def check_equal(results: list[dict[str, Tensor]], alone: dict[str, Tensor], ignored: tuple[str, ...] = ()) -> None:
    for result in results:
        assert result.keys() == alone.keys()
        for key, value in alone.items():
            if not key.startswith(ignored):
                torch.testing.assert_close(result[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one(name: str, results: list[dict[str, dict[str, Tensor]]]) -> None:
    check_equal([result[name] for result in results], run_steps(0, name, [(0, 6)]))


def test_two_processes_with_unequal_batches_equal_one(results: list[dict[str, dict[str, Tensor]]]) -> None:
    figures = ("positive_similarity", "negative_similarity", "instance_top1", "foreground", "cells_with_positives")
    check_equal([result["unequal"] for result in results], run_steps(0, "fima", [(0, 5)]), ignored=figures)


def test_collectives_take_unequal_numbers_of_rows(results: list[dict[str, dict[str, Tensor]]]) -> None:
    for result in results:
        assert result["rows 3 1"]["gathered"].tolist() == [[0], [1], [2], [10]]
        assert result["rows 3 1"]["global_mean"] == 4
        assert result["rows 0 2"]["gathered"].tolist() == [[10], [11]]
        assert result["rows 0 2"]["global_mean"] == 10.5
        for name in ("rows 3 1", "rows 0 2"):
            assert result[name]["sum"] == 3
            assert result[name]["mean"] == 1.5
            assert torch.equal(result[name]["order"], results[0][name]["order"])


@pytest.mark.parametrize(("name", "precision"), [("fima", "fp32"), ("moco", "bf16")])
def test_processes_send_what_the_benchmark_says(
    name: str, precision: Literal["fp32", "bf16"], results: list[dict[str, dict[str, Tensor]]]
) -> None:
    config = PretrainConfig(
        model=MODEL,
        method=METHODS[name],
        data=DataConfig(frames=8, crop_size=48),
        optim=OptimConfig(batch_size=3),
        run=RunConfig(precision=precision),
    )
    formula = dict.fromkeys(COLLECTIVES, 0)
    for message in messages(config, 2).values():
        formula[message.collective] += message.num_bytes
    for result in results:
        assert {key: int(value) for key, value in result[f"payloads {name} {precision}"].items()} == formula


def test_a_process_without_positives_adds_nothing(results: list[dict[str, dict[str, Tensor]]]) -> None:
    first, second = (result["positives"] for result in results)
    assert first["loss"] > 0
    assert second["loss"] == 0
    assert (second["gradient"] == 0).all()
    torch.testing.assert_close(first["mean"], first["loss"] / 2)


def test_alone_every_collective_is_the_identity() -> None:
    x = torch.rand(3, 2, requires_grad=True)
    distributed.barrier()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert torch.equal(distributed.gather_rows(x), x)
    assert not distributed.gather_rows(x).requires_grad
    assert torch.equal(distributed.all_reduce_sum(x), x)
    shuffled, deal = distributed.shuffle_rows(x)
    assert torch.equal(shuffled, x)
    assert torch.equal(distributed.unshuffle_rows(shuffled, deal), x)
    assert distributed.global_mean(x[:, 0], torch.zeros(3, dtype=torch.bool)) == 0


def test_without_torchrun_there_is_no_group_to_join_or_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.init_from_environment(torch.device("cpu")) == torch.device("cpu")
    assert not distributed.is_initialized()
    distributed.shutdown()


def run_with_a_clock_that_stands_still(rank: int, videos: Path, out: Path) -> int:
    """A run that saves after every step by the clock of the first process; that of the second says never."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "LOOK_STEPS", 1)
        patch.setattr(distributed, "shutdown", lambda: None)
        config = with_settings("run", health_epochs=0, checkpoint_minutes=0 if rank else 1e-9)
        return pretrain(config, data=videos, out=out).progress.step


def test_processes_save_together_by_the_clock_of_the_first(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run_processes(run_with_a_clock_that_stands_still, 2, tmp_path / "gloo", videos, run.root) == [4, 4]
    assert load_checkpoint(run.before_last(1)[0]).progress.step == 3
