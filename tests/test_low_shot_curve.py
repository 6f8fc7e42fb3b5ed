"""The low-shot curve: the linear probe on a few training videos of each class, drawn several times."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fima.data.datasets import Video, VideoList
from fima.data.subsets import per_class
from fima.evaluate import linear_protocols
from fima.evaluate.feature_protocols import measure
from fima.evaluate.linear import fit_linear_probe, held_out_parts
from fima.evaluate.linear_protocols import curve_warnings
from fima.evaluate.measured import FeatureSets
from tests.test_evaluation import CLIPS, CONFIG, feature_sets

COUNTS = (9, 4, 1)


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_protocols, "SHOT_DRAWS", 3)


@pytest.fixture
def sets() -> FeatureSets:
    """Three classes of nine, four and one training videos; and one that cannot be decoded."""
    sets = feature_sets(9, 3)
    labels = sets.train.labels.tolist()
    of_class = [[place for place in range(27) if labels[place] == label] for label in range(3)]
    places = [place for own, count in zip(of_class, COUNTS, strict=True) for place in own[:count]]
    kept = {sets.train.paths[place] for place in places}
    listed = [video for video in sets.videos.videos if str(video.path) in {*kept, "broken"}]
    return replace(sets, train=sets.train.rows(places), videos=replace(sets.videos, videos=listed))


def test_each_size_is_the_probe_of_so_many_videos_a_class(sets: FeatureSets) -> None:
    found = measure("low_shot_curve", sets, CLIPS, replace(CONFIG, seed=4))["low_shot_curve"]
    assert found.settings["videos_per_class"] == [1, 2, 5]
    assert (found.notes["left_out"], found.settings["version"]) == ([10], 1)
    assert found.notes["classes_with_fewer"] == {"1": [], "2": ["2"], "5": ["1", "2"]}
    assert set(found.figures) == {f"{shots}/top{k}" for shots in (1, 2, 5) for k in (1, 5)}
    decodable = replace(sets.videos, videos=[video for video in sets.videos.videos if str(video.path) != "broken"])
    test = sets.tests["test"]
    for shots, candidates in ((1, (1.0,)), (5, (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0))):
        expected = []
        for draw in range(3):
            drawn = per_class(decodable, shots, 4 + draw)
            labels = torch.tensor([video.label or 0 for video in drawn.videos])
            assert labels.bincount().tolist() == [min(shots, count) for count in COUNTS]
            rows = torch.stack([sets.train.per_video[sets.train.paths.index(str(v.path))] for v in drawn.videos])
            probe = fit_linear_probe(rows, labels, num_classes=3, seed=4, candidates=candidates)
            hits = (probe.scores(test.per_video).argmax(dim=1) == test.labels).double()
            expected.append(float(100 * hits.mean()))
        assert found.notes["figures"][f"{shots}/top1"] == pytest.approx(expected)
        assert found.figures[f"{shots}/top1"] == pytest.approx(sum(expected) / 3)
        assert found.sd[f"{shots}/top1"] == pytest.approx(torch.tensor(expected).double().std().item())
        assert 100 * found.hits[f"{shots}/top1"].mean().item() == pytest.approx(found.figures[f"{shots}/top1"])


def test_smaller_draws_are_parts_of_larger_ones(sets: FeatureSets) -> None:
    one, two, all_of_them = (set(per_class(sets.videos, count, 3).videos) for count in (1, 2, 99))
    assert one < two < all_of_them == set(sets.videos.videos)
    assert len({tuple(per_class(sets.videos, 1, seed).videos) for seed in range(9)}) > 1


def test_classes_with_fewer_videos_are_named() -> None:
    def listed(*counts: int) -> VideoList:
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        videos = [Video(path=Path(str(place)), label=label) for place, label in enumerate(labels)]
        return VideoList(videos=videos, classes=["bend", "run", "jump"], root=Path(), split="train", layout="made up")

    assert curve_warnings([listed(9, 3, 2), listed(9, 4, 9)]) == [
        "low_shot_curve: fewer than 5 training videos of jump, run in some split; all of them are taken",
        "low_shot_curve: fewer than 10 training videos of every class; this size is left out",
    ]
    assert curve_warnings([listed(10, 12, 10)]) == []


def test_something_is_held_out_even_where_each_group_is_a_class() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    parts, how = held_out_parts(labels.numpy(), ["ann", "ann", "bob", "bob"], seed=0)
    assert how == f"{len(parts)}-fold cross-validation on the training videos"
    assert held_out_parts(labels.numpy(), ["ann", "bob", "ann", "bob"], seed=0)[1].startswith("2-fold")
    assert held_out_parts(labels.numpy(), ["ann", "bob", "ann", "bob"], seed=0)[1].endswith("whole groups")
    assert parts
    assert all(len(set(labels[torch.from_numpy(~part)].tolist())) == 2 for part in parts)
    probe = fit_linear_probe(torch.eye(4), labels, num_classes=2, groups=["ann", "ann", "bob", "bob"])
    assert all(0 <= value <= 100 for value in probe.held_out_accuracies.values())
