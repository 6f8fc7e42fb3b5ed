"""What is computed from features: linear probe, nearest neighbours, retrieval, same video."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fima.data.eval_clips import ClipSettings
from fima.errors import DataError
from fima.evaluate import retrieval
from fima.evaluate.extract import Resources, VideoRows, extract_rows
from fima.evaluate.linear import fit_linear_probe
from fima.evaluate.metrics import percent, top_k_accuracy
from fima.evaluate.retrieval import knn_scores, retrieve, same_video_share
from tests.evaluation_data import gaussians
from tests.video_files import moving_square, write_video


def test_linear_probe_is_logistic_regression_on_standardised_features() -> None:
    train, labels = gaussians(20, 4, seed=0, spread=3.0)
    test, _ = gaussians(5, 4, seed=1, spread=3.0)
    probe = fit_linear_probe(train, labels, num_classes=4)
    mean, std = train.double().mean(dim=0), train.double().std(dim=0, correction=0)
    reference = LogisticRegression(C=probe.inverse_regularisation, max_iter=2000)
    reference.fit(((train - mean) / std).numpy(), labels.numpy())
    expected = torch.from_numpy(reference.decision_function(((test - mean) / std).numpy()))
    torch.testing.assert_close(probe.scores(test), expected, atol=1e-3, rtol=1e-3)
    best = max(probe.held_out_accuracies.values())
    assert probe.held_out_accuracies[probe.inverse_regularisation] == best
    assert probe.inverse_regularisation == min(c for c, a in probe.held_out_accuracies.items() if a == best)


def test_l2_normalisation_makes_the_probe_blind_to_length() -> None:
    train, labels = gaussians(10, 3, seed=0)
    length = torch.rand(len(train), 1) * 10 + 0.1
    normalised = fit_linear_probe(train * length, labels, num_classes=3, l2_normalise=True)
    torch.testing.assert_close(normalised.scores(train), normalised.scores(train * length))
    plain = fit_linear_probe(train * length, labels, num_classes=3)
    assert not torch.allclose(plain.scores(train), plain.scores(train * length))


@pytest.mark.parametrize("present", [[1, 3], [0, 2, 3]])
def test_linear_probe_never_chooses_a_class_without_training_videos(present: list[int]) -> None:
    train, labels = gaussians(10, 4, seed=0)
    kept = torch.isin(labels, torch.tensor(present))
    probe = fit_linear_probe(train[kept], labels[kept], num_classes=4)
    scores = probe.scores(train)
    assert set(scores.argmax(dim=1).tolist()) == set(present)
    assert top_k_accuracy(scores[kept], labels[kept], 1) > 90


def test_linear_probe_refuses_what_it_cannot_validate() -> None:
    with pytest.raises(DataError, match="two videos of a class"):
        fit_linear_probe(torch.randn(3, 4), torch.arange(3), num_classes=3)
    with pytest.raises(DataError, match="two classes"):
        fit_linear_probe(torch.randn(3, 4), torch.zeros(3, dtype=torch.long), num_classes=3)


def test_knn_against_a_loop() -> None:
    train, train_labels = gaussians(9, 3, seed=0, spread=3.0)
    test, _ = gaussians(4, 3, seed=1, spread=3.0)
    votes = knn_scores(train, train_labels, test, num_classes=3, num_neighbours=5)
    for row, query in zip(votes, test, strict=True):
        cosines = [float(torch.cosine_similarity(query, other, dim=0)) for other in train]
        nearest = sorted(range(len(train)), key=lambda i, c=cosines: -c[i])[:5]  # type: ignore[misc]
        expected = torch.zeros(3, dtype=torch.float64)
        for i in nearest:
            expected[train_labels[i]] += np.exp(cosines[i] / 0.07)
        torch.testing.assert_close(row / row.sum(), expected / expected.sum(), atol=1e-4, rtol=1e-4)
    assert knn_scores(train, train_labels, test, num_classes=3, num_neighbours=500).shape == (12, 3)


def test_retrieval_subtracts_each_split_s_own_mean() -> None:
    train, train_labels = gaussians(10, 5, seed=0)
    test, test_labels = gaussians(10, 5, seed=1)
    hits, chance = retrieve(train, train_labels, test, test_labels)
    shifted, _ = retrieve(train + 50, train_labels, test - 50, test_labels)
    assert hits.keys() == shifted.keys()
    assert all(percent(found) == percent(shifted[k]) for k, found in hits.items())
    assert percent(hits[1]) > 90 > chance[1]


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees how many numbers the largest result of an operation has."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        self.size = max(self.size, result.numel() if isinstance(result, Tensor) else 0)
        return result


def test_similarities_of_all_videos_are_never_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Kinetics-400 they would take 38 GB."""
    train, train_labels = gaussians(40, 5, seed=0, spread=3.0)
    test, test_labels = gaussians(20, 5, seed=1, spread=3.0)
    votes = knn_scores(train, train_labels, test, num_classes=5)
    hits, chance = retrieve(train, train_labels, test, test_labels)
    monkeypatch.setattr(retrieval, "ROWS_AT_ONCE", 7)
    with LargestTensor() as largest:
        in_parts = knn_scores(train, train_labels, test, num_classes=5)
        hits_in_parts, chance_in_parts = retrieve(train, train_labels, test, test_labels)
    assert largest.size < len(train) * len(test)
    torch.testing.assert_close(in_parts, votes)
    assert all(hits_in_parts[k].equal(found) for k, found in hits.items())
    assert chance_in_parts == chance


def test_same_video_share_against_a_loop() -> None:
    clips = torch.randn(15, 3, 6) + 1.2 * torch.randn(15, 1, 6)
    rows = clips.reshape(-1, 6)
    rows = rows - rows.mean(dim=0)
    hits = 0
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        nearest = max(others, key=lambda j, row=row: float(torch.cosine_similarity(row, rows[j], dim=0)))  # type: ignore[misc]
        hits += nearest // 3 == i // 3
    assert 0 < hits < 45
    found = same_video_share(clips)
    assert found is not None
    assert found.share == pytest.approx(100 * hits / 45)
    assert found.chance == pytest.approx(100 * 2 / 44)
    assert found.num_left_out == 0


def test_clips_of_a_video_that_are_the_same_are_not_each_other_s_neighbours() -> None:
    """Of videos as short as a clip, all clips are the same: whatever their features, they would be a hit."""
    torch.manual_seed(0)
    short = torch.randn(6, 1, 5).expand(6, 3, 5)
    assert same_video_share(short) is None
    long = torch.randn(6, 3, 5)
    found, alone = same_video_share(torch.cat([short, long])), same_video_share(long)
    assert found is not None
    assert alone is not None
    assert found.num_left_out == 6
    assert found.chance == pytest.approx(100 * 2 / 23)
    repeated = same_video_share(torch.cat([long, long], dim=1))
    assert repeated is not None
    assert repeated.share == pytest.approx(alone.share)


def test_a_fold_of_one_video_is_compared_with_the_training_videos() -> None:
    """Its own mean would leave nothing of it."""
    rows = torch.eye(4).repeat(5, 1) + 0.05 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4).repeat(5)
    hits = []
    for place in range(20):
        seen = torch.arange(20) != place
        hits.append(retrieve(rows[seen], labels[seen], rows[~seen], labels[~seen], is_fold=True)[0][1])
    assert percent(torch.cat(hits)) == 100


def test_same_video_share_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = torch.randn(20, 2, 4)
    whole = same_video_share(clips)
    monkeypatch.setattr("fima.evaluate.retrieval.ROWS_AT_ONCE", 7)
    assert same_video_share(clips) == whole


@pytest.mark.parametrize(("per_second", "num_frames"), [(False, 11), (True, 88)])
def test_clips_that_begin_at_one_frame_have_one_vector_in_all_batches(
    tmp_path: Path, per_second: bool, num_frames: int
) -> None:
    """In another batch, its last digits would differ, and it would be its own nearest neighbour."""
    # 10 windows of 8 frames in 11 begin at 4 places; those of 80 frames around 4 seconds in 88, at both ends.
    clips = ClipSettings(frames=40 if per_second else 4, crop_size=16, num_clips=10)
    num_rows, num_different = (4, 2) if per_second else (10, 4)
    paths = [write_video(tmp_path / f"{seed}.avi", moving_square(num_frames, seed=seed)) for seed in range(3)]
    batches = itertools.count()

    def network(pixels: Tensor) -> Tensor:
        return pixels.float().mean(dim=(1, 2, 3, 4))[:, None] + 1e-3 * next(batches)

    for video in extract_rows(paths, network, clips, Resources(batch_size=3), per_second=per_second):
        assert isinstance(video, VideoRows)
        assert len(video.rows) == len(video.seconds) == num_rows
        assert len(torch.unique(video.rows, dim=0)) == num_different
        assert (video.seconds[1:, 0] >= video.seconds[:-1, 0]).all()
