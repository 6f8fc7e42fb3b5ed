from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fima.data.datasets import list_videos
from fima.data.decode.video import VideoReader
from fima.data.epoch_plan import EpochPlan, EpochSampler
from fima.data.labelled import LabelledBatch, build_labelled_loader
from fima.errors import DataError
from tests.finetune_runs import SMALL
from tests.video_files import write_ucf101_avi


def test_batches_are_a_function_of_seed_epoch_and_index(videos: Path) -> None:
    train = list_videos(videos, "train")

    def batches(seed: int = 0, epoch: int = 0, rank: int = 0, world_size: int = 1) -> list[LabelledBatch]:
        loader = build_labelled_loader(train, SMALL.data, batch_size=4, seed=seed, rank=rank, world_size=world_size)
        loader.set_epoch(epoch)
        return list(loader)

    whole, again = batches(), batches()
    assert [batch.index.tolist() for batch in whole] == [
        [i for _, i in step] for step in EpochSampler(EpochPlan.plain(8), 4, seed=0, rank=0, world_size=1)
    ]
    for first, second in zip(whole, again, strict=True):
        assert torch.equal(first.clips, second.clips)
        assert torch.equal(first.draws, second.draws)
    assert whole[0].clips.shape == (4, 3, 4, 32, 32)
    assert whole[0].labels.tolist() == [train.videos[i].label for i in whole[0].index]
    assert whole[0].paths == [str(train.videos[i].path) for i in whole[0].index]
    for number, batch in enumerate(whole):
        halves = [batches(rank=rank, world_size=2)[number].clips for rank in range(2)]
        assert torch.equal(torch.cat(halves), batch.clips)
    clip_of_video_0 = {
        name: next(batch.clips[batch.index == 0] for batch in found if 0 in batch.index)
        for name, found in {"epoch 0": whole, "epoch 1": batches(epoch=1), "seed 1": batches(seed=1)}.items()
    }
    assert not torch.equal(clip_of_video_0["epoch 0"], clip_of_video_0["epoch 1"])
    assert not torch.equal(clip_of_video_0["epoch 0"], clip_of_video_0["seed 1"])


def test_a_clip_is_every_second_frame_of_one_window(tmp_path: Path) -> None:
    """With one possible start and a crop of the whole frame, a clip is known but for its flip."""
    path = write_ucf101_avi(tmp_path / "a" / "0.avi", num_frames=8, side=32)
    write_ucf101_avi(tmp_path / "b" / "0.avi", num_frames=8, side=32)
    data = replace(SMALL.data, min_area=0.999, grayscale=0, jitter=0)
    loader = build_labelled_loader(list_videos(tmp_path, "all"), data, batch_size=2, seed=0)
    (batch,) = loader
    with VideoReader(path) as reader:
        frames = torch.from_numpy(reader.read([0, 2, 4, 6])).permute(3, 0, 1, 2)
    clip = batch.clips[batch.index == 0][0]
    assert torch.equal(clip, frames) or torch.equal(clip, frames.flip(3))
    assert (batch.draws[:, :2] == 0).all()


def test_parts_of_a_batch_are_the_batch(videos: Path) -> None:
    loader = build_labelled_loader(list_videos(videos, "train"), SMALL.data, batch_size=5, seed=0)
    batch = next(iter(loader))
    parts = batch.split(2)
    assert [len(part.paths) for part in parts] == [3, 2]
    assert torch.equal(torch.cat([part.clips for part in parts]), batch.clips)
    assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    assert [path for part in parts for path in part.paths] == batch.paths
    assert batch.split(1) == [batch]
    assert len(batch.split(9)) == 5


def test_videos_without_a_class_are_refused(tmp_path: Path) -> None:
    write_ucf101_avi(tmp_path / "0.avi")
    with pytest.raises(DataError, match=r"1 of the 1 videos of the train list have no class, such as .*0.avi"):
        build_labelled_loader(list_videos(tmp_path), SMALL.data, batch_size=1, seed=0)
