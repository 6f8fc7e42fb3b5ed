import numpy as np
import pytest
import torch

from fima.evaluate.metrics import chance_recall_at_k, percent, recall_hits, top_k_accuracy


def test_top_k_accuracy_against_a_loop() -> None:
    scores, labels = torch.randn(50, 7), torch.randint(7, (50,))
    for k in (1, 3, 7, 20):
        hits = sum(int(label) in sorted(range(7), key=lambda c: -row[c])[:k] for row, label in zip(scores, labels))  # noqa: B905
        assert top_k_accuracy(scores, labels, k) == pytest.approx(100 * hits / 50)


def test_a_class_without_training_video_is_never_among_the_best() -> None:
    scores = torch.tensor([[0.5, -torch.inf, 0.1, -torch.inf]]).expand(4, 4)
    assert top_k_accuracy(scores, torch.arange(4), 4) == 50


def test_recall_at_k_against_a_loop() -> None:
    similarity = torch.randn(30, 12)
    queries, gallery = torch.randint(4, (30,)), torch.randint(4, (12,))
    found = {k: percent(hits) for k, hits in recall_hits(similarity, queries, gallery, (1, 5, 50)).items()}
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
    drawn = [percent(recall_hits(torch.rand(4, 8), queries, gallery, (3,))[3]) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(expected[3], abs=1.5)
