"""Videos that crash or block the process that decodes them in training, and processes that die for other reasons."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fima.checkpoints.run_folder import RunFolder
from fima.data.clips import WHOLE, Part
from fima.data.datasets import VideoList, list_videos
from fima.data.epoch_plan import EpochPlan, EpochSampler
from fima.data.loader import PretrainBatch, PretrainDataset, build_loader
from fima.errors import TrainingError
from fima.train.failures import errors_in_one_line
from tests.small_runs import with_settings


class CrashingDataset(PretrainDataset):
    """A decoder that dies on one video, and blocks on another."""

    def draw(self, index: int, generator: np.random.Generator, part: Part = WHOLE) -> PretrainBatch:
        if index == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if index == 5:
            time.sleep(3600)
        return super().draw(index, generator, part)


class DyingDataset(PretrainDataset):
    """A process that dies before it has begun with any video, such as for a lack of memory."""

    def __getitem__(self, item: tuple[int, int]) -> PretrainBatch:
        with Path(str(self.data.annotations)).open("a") as file:
            file.write("started\n")
        os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(item)


class WrongDataset(PretrainDataset):
    """A mistake in the program."""

    def draw(self, index: int, generator: np.random.Generator, part: Part = WHOLE) -> PretrainBatch:
        raise RuntimeError("a mistake")


def epoch(videos: VideoList, seconds: float) -> list[tuple[list[str], list[tuple[int, str]]]]:
    data = with_settings("data", workers=2, timeout_seconds=seconds).data
    loader = build_loader(CrashingDataset(videos, data, 0), EpochSampler(videos.epoch, 4, 0))
    return [(batch.paths, [(skip.index, skip.reason) for skip in batch.skipped]) for batch in loader]


def test_a_crash_costs_one_sample(videos: Path) -> None:
    listed = list_videos(videos)
    few = VideoList(**{**vars(listed), "videos": listed.videos[:5]})
    batches = epoch(few, 60)
    assert sum(len(paths) for paths, _ in batches) == 5
    (skipped,) = [skip for _, skips in batches for skip in skips]
    assert skipped[0] == 2
    assert "died (SIGSEGV)" in skipped[1]


def test_a_video_that_never_ends_costs_one_sample(videos: Path) -> None:
    found = epoch(list_videos(videos), 15)
    assert sum(len(paths) for paths, _ in found) == 8
    skipped = sorted(skip for _, skips in found for skip in skips)
    assert [index for index, _ in skipped] == [2, 5]
    assert skipped[1][1] == "not done after 15 s"


def first_epoch(dataset: PretrainDataset, out: Path) -> None:
    with errors_in_one_line(RunFolder(out)):
        list(build_loader(dataset, EpochSampler(EpochPlan.plain(8), 4, 0)))


def test_processes_that_die_again_and_again_end_the_run_in_one_line(videos: Path, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    dataset = DyingDataset(list_videos(videos), with_settings("data", workers=1, annotations=str(starts)).data, 0)
    with pytest.raises(TrainingError, match=r"^DataLoader worker .* A process that decodes has died; try fewer"):
        first_epoch(dataset, tmp_path)
    assert starts.read_text() == "started\n" * 3


def test_a_step_of_one_video_and_one_cell_is_explained(tmp_path: Path) -> None:
    said = r"^Expected more than 1 value .*\. Batch norm needs .*--data.crop-size"
    with pytest.raises(TrainingError, match=said), errors_in_one_line(RunFolder(tmp_path)):
        torch.nn.BatchNorm3d(2)(torch.zeros(1, 2, 1, 1, 1))


def test_a_mistake_of_the_program_is_not_called_a_dead_process(videos: Path, tmp_path: Path) -> None:
    dataset = WrongDataset(list_videos(videos), with_settings("data", workers=1).data, 0)
    with pytest.raises(RuntimeError, match="a mistake"):
        first_epoch(dataset, tmp_path)


def test_a_process_that_something_else_has_ended_costs_nothing(videos: Path) -> None:
    data = with_settings("data", workers=1).data
    listed = list_videos(videos)
    plain, disturbed = (
        build_loader(PretrainDataset(listed, data, 0), EpochSampler(EpochPlan.plain(8), 1, 0)) for _ in range(2)
    )
    expected = [batch.paths for batch in plain]
    found = []
    for batch in disturbed:
        found.append(batch.paths)
        if len(found) == 1:
            workers = multiprocessing.active_children()
            assert workers
            for process in workers:
                process.kill()
    assert found == expected
    # An iteration that was cut off does not shorten the next one.
    assert [batch.paths for batch in disturbed] == expected
