import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from fima.data.datasets import list_videos
from fima.data.eval_clips import ClipSettings
from fima.data.layouts.video_list import Video
from fima.evaluate.features import encoder_source
from fima.method.fima import FIMA
from fima.train.health import (
    check_health,
    clip_features,
    effective_rank,
    knn_accuracy,
    looks_collapsed,
    measure,
    spread,
)
from fima.train.probe import list_probe, probe_accuracy
from tests.evaluation_data import extract_features
from tests.small_runs import SMALL_CONFIG, make_videos, with_settings


def embeddings_of(num_videos: int, size: int, noise: float, seed: int = 0) -> torch.Tensor:
    """Two embeddings a video, close to one common direction when `noise` is small."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(size, generator=generator)
    return normalize(common + noise * torch.randn(num_videos, 2, size, generator=generator), dim=-1)


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(6)) == pytest.approx(6)
    assert effective_rank(torch.ones(20, 6)) == pytest.approx(1)
    assert effective_rank(torch.cat([torch.eye(3), torch.eye(3)])) == pytest.approx(3)
    weights = [0.75, 0.25]
    expected = math.exp(-sum(p * math.log(p) for p in weights))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(expected)
    assert math.isnan(effective_rank(torch.tensor([[math.nan, 1.0]])))


def test_embedding_std_of_spread_embeddings_is_one_over_root_d() -> None:
    even = normalize(torch.randn(4000, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(spread(even)) == pytest.approx(64**-0.5, rel=0.02)
    assert spread(torch.ones(5, 4)) == 0
    assert spread(torch.ones(1, 4)) == 0


def test_knn_leaves_the_video_itself_out() -> None:
    # Each video is its own nearest neighbour, and the nearest other one is of the other class.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert knn_accuracy(features, torch.tensor([0, 1, 0, 1]), num_neighbours=1) == 0
    assert knn_accuracy(features, torch.tensor([0, 0, 1, 1]), num_neighbours=1) == 1


def test_collapse_is_seen_and_health_is_not_mistaken_for_it() -> None:
    labels = torch.zeros(32, dtype=torch.int64)
    features = torch.randn(32, 5, generator=torch.Generator().manual_seed(1))
    assert measure(embeddings_of(32, 16, 1e-3), features, labels).collapsed
    assert not measure(embeddings_of(32, 16, 10.0), features, labels).collapsed
    broken = embeddings_of(32, 16, 10.0)
    broken[3] = math.nan
    assert measure(broken, features, labels).collapsed


def test_collapse_is_not_said_of_few_videos_nor_of_few_dimensions_of_many() -> None:
    assert looks_collapsed(8, 1.9, 0.35, 8)
    assert not looks_collapsed(7, 1.9, 0.35, 8)
    assert not looks_collapsed(8, 2.1, 0.1001 * 8**-0.5, 8)
    assert looks_collapsed(8, 2.1, 0.0999 * 8**-0.5, 8)
    assert looks_collapsed(8, math.nan, 0.35, 8)


def test_similarities_and_missing_labels() -> None:
    first = torch.eye(4)
    embeddings = torch.stack([first, first], dim=1)
    health = measure(embeddings, first, torch.tensor([0, 0, 1, -1]))
    assert (health.positive_similarity, health.negative_similarity) == (1, 0)
    assert health.knn_accuracy is None
    assert measure(embeddings, first, torch.tensor([0, 0, 1, 1])).knn_accuracy is not None
    assert measure(embeddings, first, torch.tensor([1, 1, 1, 1])).knn_accuracy is None


def test_checking_leaves_the_networks_and_the_random_state_alone(tmp_path: Path) -> None:
    videos = list_videos(make_videos(tmp_path), "train")
    method = FIMA(SMALL_CONFIG.model, SMALL_CONFIG.method).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    health = check_health(method, videos, with_settings("run", health_videos=6), torch.device("cpu"))
    assert health is not None
    assert health.num_videos == 6
    assert health.uniform_std == pytest.approx(8**-0.5)
    assert health.knn_accuracy is not None
    assert method.training
    assert method.query_encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_videos_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, num_per_class=2)
    method = FIMA(SMALL_CONFIG.model, SMALL_CONFIG.method)
    paths = sorted(folder.rglob("*.avi"))
    paths[0].write_bytes(b"no video")
    health = check_health(method, list_videos(folder, "train"), SMALL_CONFIG, torch.device("cpu"))
    assert health is not None
    assert health.num_videos == 3
    for path in paths[1:]:
        path.write_bytes(b"no video")
    assert check_health(method, list_videos(folder, "train"), SMALL_CONFIG, torch.device("cpu")) is None


def test_the_probe_is_the_knn_of_the_test_videos(tmp_path: Path) -> None:
    """Encoder features by the protocol's own path, and the vote written as a loop; the labels are drawn."""
    lists, cpu = list_probe(make_videos(tmp_path, num_per_class=10)), torch.device("cpu")
    drawn = iter(torch.randint(2, (20,), generator=torch.Generator().manual_seed(3)).tolist())
    parts = {
        name: replace(videos, videos=[Video(video.path, next(drawn)) for video in videos.videos])
        for name, videos in lists.all.items()
    }
    method = FIMA(SMALL_CONFIG.model, SMALL_CONFIG.method)
    found = probe_accuracy(method, replace(lists, train=parts["train"], test=parts["test"]), SMALL_CONFIG, cpu)
    clips, source = (
        ClipSettings.of(SMALL_CONFIG.data, num_clips=2),
        encoder_source(method.eval().query_encoder, "query"),
    )
    train, test = (extract_features(source, videos, clips, device=cpu) for videos in parts.values())
    hits = []
    for row, label in zip(normalize(test.per_video, dim=1), test.labels.tolist(), strict=True):
        votes = [0.0, 0.0]
        for other, other_label in zip(normalize(train.per_video, dim=1), train.labels.tolist(), strict=True):
            votes[other_label] += math.exp(float(row @ other) / 0.07)
        hits.append(votes.index(max(votes)) == label)
    assert 0 < sum(hits) < len(hits)
    assert found == pytest.approx(sum(hits) / len(hits))


def test_a_check_needs_no_more_memory_than_a_part_of_a_training_step(tmp_path: Path) -> None:
    videos = list_videos(make_videos(tmp_path), "train")
    config = with_settings("optim", batch_size=8, accumulate=4)
    method = FIMA(config.model, config.method).eval()
    seen: list[int] = []
    method.query_encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    features, _ = clip_features(method, videos, config, torch.device("cpu"))
    assert sum(seen) == 2 * len(features)
    assert max(seen) == 2


def test_two_clips_of_a_video_differ_where_a_clip_may_show_the_whole_of_it(tmp_path: Path) -> None:
    videos = list_videos(make_videos(tmp_path), "train")
    config = replace(SMALL_CONFIG, data=replace(SMALL_CONFIG.data, span=(0.5, 1.0)))
    method = FIMA(config.model, config.method).eval()
    features, _ = clip_features(method, videos, config, torch.device("cpu"))
    assert (features[:, 0] - features[:, 1]).abs().max() > 1e-3 * features.abs().max()
