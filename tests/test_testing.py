"""Testing a classifier on whole videos: against a loop, and with two processes against one."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from fima.backbones.registry import build_backbone
from fima.checkpoints.classifier import Classifier
from fima.config import ClassifierConfig
from fima.data.augment import MEAN, STD
from fima.data.clips import evenly_spread_starts
from fima.data.datasets import VideoList, list_videos
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings, square_crops
from fima.data.views import crop_and_resize
from fima.errors import DataError
from fima.evaluate import classifier_result as testing
from fima.evaluate.extract import Resources
from fima.torch_tools import distributed
from tests.gloo import run_processes
from tests.small_runs import make_videos
from tests.video_files import write_ucf101_avi

CPU = torch.device("cpu")
FRAMES, SIZE, CLIPS = 4, 32, 3


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    """Seven videos, of which the fourth cannot be decoded."""
    folder = tmp_path_factory.mktemp("videos")
    found = list_videos(make_videos(folder, 3), "all")
    write_ucf101_avi(folder / "b" / "99.avi", num_frames=20, seed=9, side=64)
    found = list_videos(folder, "all")
    found.videos[3].path.write_bytes(b"no video")
    assert len(found.videos) == 7
    return found


def model(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(build_backbone("tiny"), 2, ClassifierConfig(dropout=0.5))


def run_test(classifier: Classifier, videos: VideoList, **changes: Any) -> testing.ClassifierScores:  # noqa: ANN401
    log_softmax, batch_size = changes.pop("log_softmax", False), changes.pop("batch_size", 16)
    clips = ClipSettings(frames=FRAMES, crop_size=SIZE, num_clips=CLIPS, **changes)
    return testing.test_classifier(classifier, videos, clips, Resources(batch_size=batch_size), log_softmax=log_softmax)


def reference(
    classifier: Classifier, path: Path, num_crops: Literal[1, 3], ori_resolution: int | None, log_softmax: bool
) -> Tensor:
    """The score of one video, clip by clip and crop by crop."""
    scores = []
    with VideoReader(path) as reader, torch.no_grad():
        for start in evenly_spread_starts(reader.num_frames, 2 * FRAMES, CLIPS):
            frames = reader.read([(start + 2 * step) % reader.num_frames for step in range(FRAMES)])
            for crop in square_crops(reader.width, reader.height, num_crops, ori_resolution):
                clip = crop_and_resize(frames, crop, SIZE)[None].float() / 255
                for channel in range(3):
                    clip[:, channel] = (clip[:, channel] - MEAN[channel]) / STD[channel]
                logits = classifier(clip)[0].double()
                scores.append(logits - logits.exp().sum().log() if log_softmax else logits)
    return sum(scores, torch.zeros(2, dtype=torch.float64)) / len(scores)


@pytest.mark.parametrize(
    ("crops", "ori_resolution", "log_softmax"), [(1, None, False), (3, 40, True)], ids=["logits", "log-softmax"]
)
def test_scores_against_a_loop(
    crops: Literal[1, 3], ori_resolution: int | None, log_softmax: bool, videos: VideoList
) -> None:
    classifier = model().eval()
    found = run_test(classifier, videos, num_crops=crops, ori_resolution=ori_resolution, log_softmax=log_softmax)
    kept = [video for place, video in enumerate(videos.videos) if place != 3]
    assert found.paths == [str(video.path) for video in kept]
    assert found.labels.tolist() == [video.label for video in kept]
    assert found.scores.dtype == torch.float64
    expected = torch.stack([reference(classifier, video.path, crops, ori_resolution, log_softmax) for video in kept])
    torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-5)
    right = (expected.argmax(dim=1) == found.labels).double().mean()
    assert found.top(1) == pytest.approx(100 * float(right))
    assert found.top(5) == 100


def test_what_cannot_be_decoded_is_named(videos: VideoList) -> None:
    found = run_test(model(), videos)
    assert [skipped.path for skipped in found.undecodable] == [str(videos.videos[3].path)]
    with pytest.raises(DataError, match="none of 1 videos can be decoded"):
        run_test(model(), replace(videos, videos=videos.videos[3:4]))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_changes_nothing(batch_size: int, videos: VideoList) -> None:
    whole, parts = run_test(model(), videos), run_test(model(), videos, batch_size=batch_size)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-5, atol=1e-5)
    assert parts.paths == whole.paths


def test_the_mode_is_put_back_and_dropout_is_off(videos: VideoList) -> None:
    classifier = model().train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    first = run_test(classifier, videos)
    assert classifier.training
    assert torch.equal(first.scores, run_test(classifier, videos).scores)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def share(rank: int, videos: VideoList) -> dict[str, Any]:
    """What one of two processes finds, whose batch-norm statistics differ until they are made equal."""
    classifier = model()
    for buffer in classifier.buffers():
        buffer.add_(rank)
    distributed.broadcast_buffers(classifier)
    found = run_test(classifier, videos)
    fewer = run_test(classifier, replace(videos, videos=videos.videos[:1]))
    return {
        "scores": found.scores,
        "labels": found.labels,
        "paths": found.paths,
        "undecodable": [skipped.path for skipped in found.undecodable],
        "one": fewer.scores,
    }


def test_two_processes_count_every_video_once(videos: VideoList, tmp_path: Path) -> None:
    alone = run_test(model(), videos)
    for result in run_processes(share, 2, tmp_path / "gloo", videos):
        assert result["paths"] == alone.paths
        assert torch.equal(result["labels"], alone.labels)
        torch.testing.assert_close(result["scores"], alone.scores, rtol=1e-6, atol=1e-6)
        assert result["undecodable"] == [skipped.path for skipped in alone.undecodable]
        torch.testing.assert_close(result["one"], alone.scores[:1], rtol=1e-6, atol=1e-6)
