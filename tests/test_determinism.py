"""Runs that ask for deterministic algorithms give the same bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from fima.checkpoints.run_folder import RunFolder
from fima.torch_tools.device import choose_algorithms
from fima.train import finetune as finetune_module
from fima.train import pretrain as pretraining
from fima.train.finetune import finetune
from fima.train.pretrain import pretrain
from tests.finetune_runs import changed
from tests.small_runs import with_settings

Chosen = list[tuple[bool, bool]]


@pytest.fixture(autouse=True)
def fast_again() -> Iterator[None]:
    yield
    choose_algorithms(torch.device("cpu"), deterministic=False)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Chosen:
    """What the steps of runs find chosen: deterministic algorithms, and whether others are tried out."""
    found: Chosen = []
    for module in (pretraining, finetune_module):
        monkeypatch.setattr(module, "forward_backward", noting(module.forward_backward, found))
    return found


def noting(function: Any, found: Chosen) -> Any:  # noqa: ANN401
    def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        found.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return function(*arguments, **options)

    return call


def assert_same_files(first: RunFolder, second: RunFolder) -> None:
    names = sorted(path.name for path in first.checkpoint_folder.iterdir())
    assert "last.pt" in names
    for name in names:
        one, two = ((run.checkpoint_folder / name).read_bytes() for run in (first, second))
        assert one == two, name


@pytest.mark.parametrize("name", ["fima", "moco"])
def test_two_pretraining_runs_write_the_same_bytes(
    name: Literal["fima", "moco"], videos: Path, tmp_path: Path, chosen: Chosen
) -> None:
    config = with_settings("run", with_settings("method", name=name), deterministic=True)
    runs = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    for run in runs:
        pretrain(config, data=videos, out=run.root)
    assert chosen == [(True, False)] * 8
    assert_same_files(*runs)
    pretrain(with_settings("optim", epochs=1), data=videos, out=tmp_path / "c")
    assert chosen[-1] == (False, False)


def test_two_finetuning_runs_write_the_same_bytes(videos: Path, tmp_path: Path, chosen: Chosen) -> None:
    runs = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    for run in runs:
        finetune(changed("run", deterministic=True), pretrained=None, data=videos, out=run.root)
    assert set(chosen) == {(True, False)}
    assert_same_files(*runs)


def test_a_gpu_tries_algorithms_out_unless_it_is_to_be_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.benchmark
    try:
        choose_algorithms(torch.device("cuda"), deterministic=False)
        assert torch.backends.cudnn.benchmark
        choose_algorithms(torch.device("cuda"), deterministic=True)
        assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
    finally:
        torch.backends.cudnn.benchmark = before
