"""A batch that does not fit into shared memory ends the run in one line instead of being waited for."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info

from fima.cli import main
from fima.config import DataConfig
from fima.data.datasets import list_videos
from fima.data.eval_clips import ClipSettings
from fima.data.loader import PretrainBatch, build_pretrain_loader
from fima.data.workers.batches import in_shared_memory, joined
from fima.errors import TrainingError
from fima.evaluate.extract import Resources, decoded_clips, extract_rows
from tests.small_runs import make_videos


def full(self: torch.Tensor) -> torch.Tensor:
    if get_worker_info() is not None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
    return self


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return make_videos(tmp_path / "videos", 2)


def test_a_batch_arrives_in_shared_memory(videos: Path) -> None:
    data = DataConfig(frames=4, crop_size=16, workers=1)
    loader = build_pretrain_loader(list_videos(videos, "all"), data, batch_size=2, seed=0)
    loader.set_epoch(0)
    batch = next(iter(loader))
    assert isinstance(batch, PretrainBatch)
    assert all(tensor.untyped_storage().is_shared() for tensor in (batch.a.full, batch.b.box, batch.draws_a))


def test_the_process_that_trains_keeps_its_own_memory() -> None:
    batch = in_shared_memory(joined([torch.ones(2)]))
    assert isinstance(batch, torch.Tensor)
    assert not batch.untyped_storage().is_shared()


def test_full_shared_memory_ends_the_run_in_one_line(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    flags = "--model.backbone tiny --data.frames 4 --data.crop-size 32 --data.workers 1 --optim.batch-size 2"
    code = main(["pretrain", str(videos), "--out", str(tmp_path / "run"), *flags.split()])
    said = capsys.readouterr().err
    assert code == 1
    assert "does not fit into shared memory" in said
    assert "--shm-size" in said
    assert "Traceback" not in said


def test_full_shared_memory_is_an_error_of_evaluations_too(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    paths = [video.path for video in list_videos(videos, "all").videos]
    settings = ClipSettings(frames=4, crop_size=16, num_clips=1)
    with pytest.raises(TrainingError, match="a batch does not fit into shared memory"):
        list(extract_rows(paths, lambda clips: clips.flatten(1).float(), settings, Resources(workers=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_without_shared_memory_there_are_no_processes(
    workers: int, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to open shared memory object </torch_1>: No such file or directory (2)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", missing)
    paths = [video.path for video in list_videos(videos, "all").videos]
    found = decoded_clips(paths, ClipSettings(frames=4, crop_size=16, num_clips=1), Resources(workers=workers))
    if workers == 0:
        assert len(list(found)) == len(paths)
        return
    with pytest.raises(TrainingError, match=r"no shared memory for 1 processes that decode .*with 0 workers"):
        next(found)
