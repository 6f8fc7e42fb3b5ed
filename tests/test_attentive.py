"""The attentive probe: against plain attention and a plain training loop, and what it can find that averages cannot."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fima.data.datasets import Video, VideoList
from fima.errors import DataError
from fima.evaluate import attentive
from fima.evaluate.attentive import AttentiveProbe, Training, measure_attentive, train_together
from fima.evaluate.features import Features, normalised_cells
from fima.evaluate.linear import fit_linear_probe
from fima.evaluate.measured import FeatureSets, Measured
from tests.test_evaluation import CLIPS, CONFIG

CPU = torch.device("cpu")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def reference(probe: AttentiveProbe, cells: Tensor) -> Tensor:
    """Scores (B, classes) of the published block, by PyTorch's own attention, of normalised cells (B, M, C)."""
    seen = cells * probe.norm_cells.weight + probe.norm_cells.bias
    query = probe.query.expand(len(cells), 1, -1)
    found = query + probe.attention(query, seen, seen, need_weights=False)[0]
    scores: Tensor = probe.head(found + probe.mlp(probe.norm_mlp(found)))[:, 0]
    return scores


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_scores_against_a_loop_over_heads_and_cells() -> None:
    torch.manual_seed(0)
    probe = AttentiveProbe(128, 5)
    assert probe.num_heads == 2
    for parameter in probe.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    feature_map = 3 * torch.randn(2, 128, 2, 3, 1, dtype=torch.float32) + 1
    found = probe(normalised_cells(feature_map).double())
    weights, biases = probe.attention.in_proj_weight.chunk(3), probe.attention.in_proj_bias.chunk(3)
    for video in range(2):
        cells = [feature_map[video, :, t, y, 0].double() for t in range(2) for y in range(3)]
        cells = [functional.layer_norm(cell, (128,), probe.norm_cells.weight, probe.norm_cells.bias) for cell in cells]
        heads = []
        for head in range(2):
            part = slice(64 * head, 64 * head + 64)
            query = (weights[0] @ probe.query[0] + biases[0])[part]
            match = [float(query @ (weights[1] @ cell + biases[1])[part]) / 8 for cell in cells]
            share = torch.tensor(match).exp() / torch.tensor(match).exp().sum()
            heads.append(sum(s * (weights[2] @ cell + biases[2])[part] for s, cell in zip(share, cells, strict=True)))
        output = probe.query[0] + probe.attention.out_proj(torch.cat(heads))
        expected = probe.head(output + probe.mlp(probe.norm_mlp(output)))
        torch.testing.assert_close(found[video], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("double")
def test_training_together_is_a_plain_loop_for_each_probe() -> None:
    torch.manual_seed(1)
    cells, labels = functional.layer_norm(torch.randn(40, 2, 3, 64), (64,)), torch.arange(40) % 4
    listed = VideoList(videos=[], classes=list("abcd"), root=Path(), split="train", layout="made up")
    train = Features(pooled=cells, cells=list(cells), labels=labels, paths=[], undecodable=[])
    sets = FeatureSets(train=train, tests={}, videos=listed)
    rates = [
        Training(learning_rate=1e-2, weight_decay=0.5, epochs=2),
        Training(learning_rate=1e-3, weight_decay=0, epochs=3),
    ]
    places = torch.arange(0, 40, 2)
    *_, (epoch, probes) = train_together(sets, places, rates, seed=7, device=CPU)
    assert epoch == 3
    for rate, probe in zip(rates, probes, strict=True):
        torch.manual_seed(7)
        plain = AttentiveProbe(64, 4)
        optimizer = torch.optim.AdamW(plain.parameters(), lr=rate.learning_rate, weight_decay=rate.weight_decay)
        generator = torch.Generator().manual_seed(7)
        for _ in range(3):
            order = places[torch.randperm(20, generator=generator)]
            for batch in (order[:16], order[16:]):
                optimizer.zero_grad()
                loss = functional.cross_entropy(reference(plain, cells[batch].flatten(1, 2)), labels[batch])
                torch.autograd.backward(loss)
                optimizer.step()
        expected = reference(plain, cells.flatten(1, 2))
        torch.testing.assert_close(probe(cells.flatten(1, 2)), expected, atol=1e-6, rtol=1e-6)


def sets_with_one_telling_cell(num_classes: int = 3, num_videos: int = 60) -> FeatureSets:
    """One of six cells, marked in the last channel, shows the class; the others show classes that balance it."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in ("train", "test"):
        labels = torch.arange(num_videos) % num_classes
        cells = 0.1 * torch.randn(num_videos, 1, 2 * num_classes, 16, generator=generator)
        for video, label in enumerate(labels.tolist()):
            order = torch.randperm(2 * num_classes, generator=generator)
            shown = [label, *(each for each in range(num_classes) for _ in range(2 - (each == label)))]
            for place, each in zip(order.tolist(), shown, strict=True):
                cells[video, 0, place, each] += 1
            cells[video, 0, order[0], 15] += 2
        rows = functional.layer_norm(cells, (16,)).half()
        paths = [f"{name}{place}" for place in range(num_videos)]
        found[name] = Features(
            pooled=cells.mean(dim=2), cells=list(rows), labels=labels, paths=paths, undecodable=[], parts=("rgb:cells",)
        )
    train = found["train"]
    listed = [Video(path=Path(path), label=int(label)) for path, label in zip(train.paths, train.labels, strict=True)]
    videos = VideoList(videos=listed, classes=list("abc"), root=Path(), split="train", layout="made up")
    groups = {video.path: str(place // 10) for place, video in enumerate(listed)}
    return FeatureSets(train=train, tests={"test": found["test"]}, videos=videos, groups=groups)


@pytest.fixture(scope="module")
def sets() -> FeatureSets:
    return sets_with_one_telling_cell()


@pytest.fixture(autouse=True, scope="module")
def few_candidates() -> Iterator[None]:
    few = itertools.product((5, 30), (1e-3, 5e-3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            attentive,
            "CANDIDATES",
            tuple(Training(learning_rate=rate, weight_decay=0.01, epochs=epochs) for epochs, rate in few),
        )
        patch.setattr(attentive, "EPOCHS", (5, 30))
        yield


@pytest.fixture(scope="module")
def measured(sets: FeatureSets) -> Measured:
    return measure_attentive(sets, CLIPS, CONFIG, CPU)


def test_it_finds_the_cell_that_averages_hide(sets: FeatureSets, measured: Measured) -> None:
    linear = fit_linear_probe(sets.train.per_video, sets.train.labels, num_classes=3)
    test = sets.tests["test"]
    assert (linear.scores(test.per_video).argmax(dim=1) == test.labels).double().mean() < 0.6
    assert measured.figures["top1"] >= 80
    assert measured.hits["top1"].double().mean() * 100 == pytest.approx(measured.figures["top1"])
    assert measured.chance["top1"] == pytest.approx(100 / 3)
    assert "whole groups" in measured.settings["selection"]
    assert measured.settings["version"] == 1
    best = max(each["top1"] for each in measured.notes["held_out_accuracies"])
    chosen = next(each for each in measured.notes["held_out_accuracies"] if each["top1"] == best)
    assert all(measured.notes[name] == chosen[name] for name in ("learning_rate", "weight_decay", "epochs"))


def test_it_repeats_to_the_digit_and_does_not_look_at_test_labels(sets: FeatureSets, measured: Measured) -> None:
    test = sets.tests["test"]
    rotated = replace(sets, tests={"test": replace(test, labels=(test.labels + 1) % 3)})
    other = measure_attentive(rotated, CLIPS, CONFIG, CPU)
    assert torch.equal(measured.scores["test"][0], other.scores["test"][0])
    assert measured.notes == other.notes
    assert measured.figures["top1"] > 80 > 20 > other.figures["top1"]


def test_one_video_a_class_is_refused(sets: FeatureSets) -> None:
    one_each = replace(sets, train=replace(sets.train, labels=torch.arange(3), cells=sets.train.cells[:3]))
    with pytest.raises(DataError, match="the attentive probe needs two classes and two videos of a class"):
        measure_attentive(one_each, CLIPS, CONFIG, CPU)


def test_large_maps_are_averaged_to_a_bounded_number_of_cells() -> None:
    feature_map = torch.randn(1, 4, 2, 16, 8)
    cells = normalised_cells(feature_map)
    assert cells.shape == (1, 2 * 8 * 8, 4)
    expected = functional.layer_norm(feature_map[0, :, 1, 4:6, 3].mean(dim=1), (4,))
    torch.testing.assert_close(cells[0, 64 + 2 * 8 + 3], expected)
