"""Evaluation: figures against loop-written references, no look at test labels, an honest cache."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from fima.config import DataConfig, PretrainConfig
from fima.data.datasets import Video, VideoList, list_videos
from fima.data.motion_textures import list_swapped, make_motion_textures
from fima.engine.checkpoint import LoadedEncoder
from fima.errors import ConfigError, DataError
from fima.evaluation import protocols
from fima.evaluation.features import (
    RAW_DIFFERENCE,
    ClipSettings,
    FeatureSource,
    encode,
    encoder_source,
    extract_features,
    raw_difference_features,
)
from fima.evaluation.knn import knn_scores
from fima.evaluation.linear import fit_linear_probe
from fima.evaluation.metrics import chance_recall_at_k, recall_at_k, top_k_accuracy
from fima.evaluation.protocols import EvaluationConfig, evaluate_source
from fima.evaluation.retrieval import retrieve, same_video_share
from fima.evaluation.supervised import Classifier, SupervisedConfig, supervised_accuracy, train_supervised
from fima.model.backbones import build_backbone

CPU = torch.device("cpu")
CLIPS = ClipSettings(frames=4, crop_size=32, num_clips=2)
CONFIG = EvaluationConfig(num_clips=2, workers=0)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "motion"
    make_motion_textures(out, num_train=40, num_test=20, size_px=40, num_frames=12, workers=0)
    return out


def gaussians(num_per_class: int, num_classes: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points (V, 8) around one centre a class."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(num_classes, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(num_classes).repeat(num_per_class)
    return centres[labels] + spread * torch.randn(len(labels), 8, generator=generator), labels


# ------------------------------------------------------------------------------------------------------- metrics
def test_top_k_accuracy_against_a_loop() -> None:
    scores, labels = torch.randn(50, 7), torch.randint(7, (50,))
    for k in (1, 3, 7, 20):
        hits = sum(int(label) in sorted(range(7), key=lambda c: -row[c])[:k] for row, label in zip(scores, labels))  # noqa: B905
        assert top_k_accuracy(scores, labels, k) == pytest.approx(100 * hits / 50)


def test_recall_at_k_against_a_loop() -> None:
    similarity = torch.randn(30, 12)
    queries, gallery = torch.randint(4, (30,)), torch.randint(4, (12,))
    found = recall_at_k(similarity, queries, gallery, (1, 5, 50))
    for k in (1, 5, 50):
        hits = 0
        for row, label in zip(similarity.tolist(), queries.tolist(), strict=True):
            nearest = sorted(range(12), key=lambda g, row=row: -row[g])[:k]  # type: ignore[misc]
            hits += any(int(gallery[g]) == label for g in nearest)
        assert found[k] == pytest.approx(100 * hits / 30)


def test_chance_recall_is_what_random_orders_give() -> None:
    queries, gallery = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    expected = chance_recall_at_k(queries, gallery, (1, 3, 8, 50))
    assert expected[1] == pytest.approx(100 * (2 / 8 + 3 / 8 + 1 / 8 + 1 / 8) / 4)
    assert expected[8] == expected[50] == pytest.approx(100)
    torch.manual_seed(0)
    drawn = [recall_at_k(torch.rand(4, 8), queries, gallery, (3,))[3] for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(expected[3], abs=1.5)


# ------------------------------------------------------------------------------------------------ linear and kNN
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


# ----------------------------------------------------------------------------------------------------- retrieval
def test_retrieval_subtracts_each_split_s_own_mean() -> None:
    train, train_labels = gaussians(10, 5, seed=0)
    test, test_labels = gaussians(10, 5, seed=1)
    plain = retrieve(train, train_labels, test, test_labels)
    shifted = retrieve(train + 50, train_labels, test - 50, test_labels)
    assert plain.recall == shifted.recall
    assert plain.recall[1] > 90 > plain.chance[1]


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
    assert same_video_share(clips) == pytest.approx(100 * hits / 45)


def test_same_video_share_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = torch.randn(20, 2, 4)
    whole = same_video_share(clips)
    monkeypatch.setattr("fima.evaluation.retrieval.ROWS_AT_ONCE", 7)
    assert same_video_share(clips) == whole


# ------------------------------------------------------------------------------------------------------ features
class Moments(nn.Module):
    """A stand-in for an encoder: per-channel pixel values and their squares."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x**2], dim=1)[:, :, :, ::2, ::2]


def test_encoder_sees_normalised_pixels() -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    expected = (clips.double() / 255 - torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1, 1)) / torch.tensor(
        [0.22803, 0.22145, 0.216989]
    ).view(3, 1, 1, 1)
    torch.testing.assert_close(encode(nn.Identity(), clips).double(), expected, atol=1e-5, rtol=1e-5)
    pooled = encoder_source(nn.Identity(), "pixels").pool(clips)
    torch.testing.assert_close(pooled.double(), expected.mean(dim=(2, 3, 4)), atol=1e-5, rtol=1e-5)


def test_raw_difference_features_against_a_loop() -> None:
    clips = torch.randint(0, 256, (1, 3, 3, 16, 16), dtype=torch.uint8)
    found = raw_difference_features(clips)
    assert found.shape == (1, 2 * 65)
    for pair in range(2):
        change = (clips[0, :, pair + 1].double() - clips[0, :, pair].double()).abs().mean(dim=0) / 255
        for row in range(8):
            for column in range(8):
                cell = change[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
                assert float(found[0, 64 * pair + 8 * row + column]) == pytest.approx(float(cell), abs=1e-6)
        assert float(found[0, 128 + pair]) == pytest.approx(float(change.mean()), abs=1e-6)


def counting(name: str) -> tuple[FeatureSource, list[int]]:
    calls: list[int] = []

    def pool(clips: Tensor) -> Tensor:
        calls.append(len(clips))
        return raw_difference_features(clips)

    return FeatureSource(name=name, pool=pool), calls


def test_cache_serves_until_checkpoint_settings_or_a_file_change(benchmark: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    listed = list_videos(benchmark, "test").videos[:4]
    copies = []
    for video in listed:
        copies.append(Video(path=tmp_path / video.path.name, label=video.label))
        copies[-1].path.write_bytes(video.path.read_bytes())
    videos = VideoList(videos=copies, classes=["a"] * 10, root=tmp_path, split="test", layout="copies")
    source, calls = counting("checkpoint 1")

    def extract(source: FeatureSource, settings: ClipSettings = CLIPS) -> Tensor:
        return extract_features(source, videos, settings, device=CPU, cache=cache).pooled

    first = extract(source)
    assert first.shape == (4, 2, 3 * 65)
    assert torch.equal(extract(source), first)
    assert sum(calls) == 8
    other, other_calls = counting("checkpoint 2")
    extract(other)
    assert sum(other_calls) == 8
    extract(source, ClipSettings(frames=4, crop_size=24, num_clips=2))
    assert sum(calls) == 16
    os.utime(copies[0].path, ns=(1, 1))
    extract(source)
    assert sum(calls) == 24
    for stored in cache.iterdir():
        stored.write_bytes(b"damaged")
    assert torch.equal(extract(source), first)
    assert sum(calls) == 32


def test_undecodable_videos_are_named_also_from_the_cache(benchmark: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"not a video")
    good = list_videos(benchmark, "test").videos
    videos = VideoList(
        videos=[good[0], Video(path=broken, label=3), good[1]],
        classes=list_videos(benchmark, "test").classes,
        root=tmp_path,
        split="test",
        layout="mixed",
    )
    for _ in range(2):
        found = extract_features(RAW_DIFFERENCE, videos, CLIPS, device=CPU, cache=tmp_path / "cache")
        assert found.paths == [str(good[0].path), str(good[1].path)]
        assert found.labels.tolist() == [good[0].label, good[1].label]
        assert [video.path for video in found.undecodable] == [str(broken)]
    train = list_videos(benchmark, "train")
    result = evaluate(train, videos, tmp_path)
    assert result["data"]["test"]["num_evaluated"] == 2
    assert [video["path"] for video in result["data"]["test"]["undecodable"]] == [str(broken)]
    only = VideoList(videos=[videos.videos[1]], classes=videos.classes, root=tmp_path, split="test", layout="one")
    with pytest.raises(DataError, match=r"none of 1 videos can be decoded.*broken\.avi"):
        extract_features(RAW_DIFFERENCE, only, CLIPS, device=CPU)


# ----------------------------------------------------------------------------------------------------- protocols
def evaluate(
    train: VideoList, test: VideoList, folder: Path, extra: dict[str, VideoList] | None = None
) -> dict[str, Any]:
    result = evaluate_source(
        RAW_DIFFERENCE,
        clips=CLIPS,
        described={"description": "raw differences"},
        train=train,
        test=test,
        config=CONFIG,
        device=CPU,
        extra_tests=extra,
        cache=folder / "cache",
    )
    result.save(folder / "result.json")
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def test_evaluation_result_says_everything(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    result = evaluate(train, test, tmp_path, {"swapped": list_swapped(benchmark)})
    figures = result["figures"]
    for name in ("linear/top1", "linear/top5", "linear/swapped/top1", "knn/top1", "retrieval/R@20"):
        assert 0 <= figures[name] <= 100
    assert figures.keys() == result["chance"].keys()
    assert result["chance"]["linear/top1"] == pytest.approx(10)
    assert figures["linear/top1"] > 10  # motion tells the class, and differences show motion
    assert set(result["protocols"]) == {"linear", "knn", "retrieval", "same_video"}
    assert all(protocol["version"] == 1 for protocol in result["protocols"].values())
    assert result["protocols"]["linear"]["clips"] == {"frames": 4, "crop_size": 32, "num_clips": 2}
    assert result["data"]["swapped"]["num_evaluated"] == 20
    assert {"fima", "torch", "python"} <= result["versions"].keys()


def test_test_labels_change_neither_the_probe_nor_its_regularisation(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    rotated = [Video(path=video.path, label=((video.label or 0) + 1) % 10) for video in test.videos]
    other = VideoList(videos=rotated, classes=test.classes, root=test.root, split="test", layout="rotated labels")
    plain, changed = evaluate(train, test, tmp_path), evaluate(train, other, tmp_path)
    assert plain["notes"]["linear"] == changed["notes"]["linear"]
    assert plain["figures"]["same_video/train"] == changed["figures"]["same_video/train"]
    assert plain["figures"]["linear/top1"] != changed["figures"]["linear/top1"]


def test_evaluation_of_a_checkpoint_uses_its_frames_and_crop_and_its_hash(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    figures = []
    for digest, seed in (("aa", 0), ("bb", 1), ("aa", 2)):
        torch.manual_seed(seed)
        loaded = LoadedEncoder(
            encoder=build_backbone("tiny").eval(),
            config=PretrainConfig(data=DataConfig(frames=4, crop_size=32)),
            checkpoint_hash=digest,
            epoch=3,
            method="fima",
        )
        result = protocols.evaluate(loaded, train=train, test=test, config=CONFIG, device=CPU, cache=tmp_path / "cache")
        figures.append(result.figures)
        assert result.encoder["checkpoint_hash"] == digest
        assert result.encoder["config"]["data"]["frames"] == 4
        assert result.protocols["knn"]["clips"] == {"frames": 4, "crop_size": 32, "num_clips": 2}
    # The third has the first one's hash, so its features come from the cache whatever its weights are.
    assert figures[0] == figures[2] != figures[1]


def test_lists_must_be_labelled_and_of_the_same_classes(benchmark: Path, tmp_path: Path) -> None:
    train, test = list_videos(benchmark, "train"), list_videos(benchmark, "test")
    bare = [Video(path=video.path, label=None) for video in test.videos]
    without = VideoList(videos=bare, classes=[], root=test.root, split="test", layout="bare")
    with pytest.raises(DataError, match="the test list has videos without a class"):
        evaluate(train, without, tmp_path)
    renamed = VideoList(videos=test.videos, classes=test.classes[::-1], root=test.root, split="test", layout="renamed")
    with pytest.raises(DataError, match="the classes of the test list"):
        evaluate(train, renamed, tmp_path)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"protocols": ("lineal",)}, "--protocols lineal"),
        ({"num_clips": 0}, "--num_clips 0"),
        ({"num_clips": 1}, "same_video"),
    ],
)
def test_wrong_settings_name_the_flag(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        EvaluationConfig(**settings)


# ---------------------------------------------------------------------------------------------------- supervised
def test_supervised_training_learns_its_own_videos(benchmark: Path) -> None:
    train = list_videos(benchmark, "train")
    few = [video for video in train.videos if video.label in (0, 4)]
    videos = VideoList(videos=few, classes=train.classes, root=train.root, split="train", layout="two classes")
    losses: list[float] = []
    model = train_supervised(
        videos,
        DataConfig(frames=4, crop_size=32, workers=0),
        SupervisedConfig(epochs=12, batch_size=8, lr=0.02),
        device=CPU,
        report=lambda _, loss: losses.append(loss),
    )
    assert not model.training
    assert losses[-1] < 0.5 * losses[0]
    found = supervised_accuracy(model, videos, CLIPS, device=CPU)
    assert found["top5"] >= found["top1"] >= 50


def test_supervised_scores_are_the_mean_logits_of_the_clips(benchmark: Path) -> None:
    test = list_videos(benchmark, "test")
    torch.manual_seed(0)
    model = Classifier("tiny", 10).eval()
    source = FeatureSource(name="logits", pool=lambda clips: encode(model, clips))
    logits = extract_features(source, test, CLIPS, device=CPU)
    expected = top_k_accuracy(logits.per_video, logits.labels, 1)
    assert supervised_accuracy(model, test, CLIPS, device=CPU)["top1"] == expected
