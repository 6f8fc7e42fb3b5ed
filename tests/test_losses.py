from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fima.method import losses
from fima.method.losses import (
    Contrast,
    cell_centres,
    cell_motion,
    frame_motion,
    info_nce,
    log_sum_exp,
    positive_pairs,
)
from fima.method.term import TermLoss
from tests.reference import cell_motion_loop, frame_motion_loop, golden_parts, info_nce_loop, positive_pairs_loop

DENSE_CASES = ["basic", "queue", "flipped", "some_without_positives"]
TAU = 0.1


def units(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).to(dtype)


def same_gradients(ours: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Two scalar functions of `x` agree in value and in gradient."""
    x_ours, x_reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = ours(x_ours), reference(x_reference)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, x_ours)
    (expected_gradient,) = torch.autograd.grad(expected, x_reference)
    assert expected_gradient.abs().max() > 0
    torch.testing.assert_close(gradient, expected_gradient)


def kinds(contrasts: list[Contrast]) -> Tensor:
    """The losses of the four kinds of prediction."""
    return torch.stack([contrast.loss for contrast in contrasts])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_info_nce_agrees_with_the_loop() -> None:
    query, key, negatives = units(5, 8), units(5, 8), units(7, 8)
    same_gradients(
        lambda q: info_nce(q, key, negatives, temperature=TAU).loss,
        lambda q: info_nce_loop(q, key, negatives, TAU),
        query,
    )


def test_info_nce_says_how_well_the_positives_stand_out() -> None:
    query = torch.eye(4)[:2]
    contrast = info_nce(
        query, query.flip(0).lerp(query, torch.tensor([[1.0], [0.0]])), torch.eye(4)[1:], temperature=TAU
    )
    assert contrast.positive_similarity == 0.5
    assert contrast.negative_similarity == pytest.approx(1 / 6)
    assert contrast.top1 == 0.5
    assert not contrast.positive_similarity.requires_grad


def test_negatives_that_do_not_count_are_not_in_the_similarity_either() -> None:
    query, key, negatives = units(3, 4), units(3, 4), units(5, 4)
    excluded = torch.zeros(3, 5, dtype=torch.bool)
    excluded[0, :4], excluded[1] = True, True
    found = info_nce(query, key, negatives, temperature=0.1, excluded=excluded)
    expected = (query[0] @ negatives[4] + query[2] @ negatives.mean(dim=0)) / 3
    torch.testing.assert_close(found.negative_similarity, expected)


@pytest.mark.parametrize("similarities_at_a_time", [1, 14, 1000])
def test_keys_that_do_not_count_are_left_out_whatever_fits_into_memory(
    similarities_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MAX_SIMILARITIES", similarities_at_a_time)
    query, keys, excluded = units(6, 4), units(7, 4), torch.zeros(3, 7, dtype=torch.bool)
    excluded[0, 1], excluded[1, 2:5], excluded[2, 6] = True, True, True
    logits = (query @ keys.T / 0.1).masked_fill(excluded.repeat_interleave(2, dim=0), float("-inf"))
    torch.testing.assert_close(log_sum_exp(query, keys, 0.1, excluded), logits.logsumexp(dim=1))


def test_frame_motion_agrees_with_the_loop() -> None:
    predictions, keys, queue = units(4, 3, 8), units(4, 3, 8), units(6, 8)
    same_gradients(
        lambda p: kinds(frame_motion(p, keys, keys, queue, temperature=TAU)).sum(),
        lambda p: torch.stack(frame_motion_loop(p, keys, queue, TAU)).sum(),
        predictions,
    )
    found = frame_motion(predictions, keys, keys, queue, temperature=TAU)
    torch.testing.assert_close(kinds(found), torch.stack(frame_motion_loop(predictions, keys, queue, TAU)))
    mean = TermLoss.mean(found)
    assert len(set(mean.each.tolist())) == 3
    torch.testing.assert_close(mean.each.mean(), mean.loss)
    torch.testing.assert_close(mean.loss, kinds(found).mean())


def test_keys_of_the_same_kind_are_not_negatives_of_one_another() -> None:
    predictions, keys, queue = units(4, 3, 8), units(4, 3, 8), units(6, 8)
    changed = keys.clone()
    changed[0, 2] = units(8)
    before = kinds(frame_motion(predictions[:, :2], keys[:, :2], keys, queue, temperature=TAU))
    after = kinds(frame_motion(predictions[:, :2], keys[:, :2], changed, queue, temperature=TAU))
    assert (before != after).tolist() == [False, True, True, True]


def random_boxes(batch_size: int) -> Tensor:
    r = torch.rand(batch_size, 4, dtype=torch.float64)
    return torch.stack([0.4 * r[:, 0], 0.4 * r[:, 1], 0.6 + 0.4 * r[:, 2], 0.6 + 0.4 * r[:, 3]], dim=1)


def test_positive_pairs_agree_with_the_loop_on_a_map_that_is_not_square() -> None:
    boxes_a, boxes_b = random_boxes(3), random_boxes(3)
    boxes_a[0] = boxes_a[0, [2, 1, 0, 3]]
    masks = torch.rand(2, 3, 4, 5) > 0.3
    pairs = positive_pairs(boxes_a, boxes_b, masks[0], masks[1], pos_ratio=0.7)
    assert 0 < pairs.sum() < pairs.numel()
    assert torch.equal(pairs, positive_pairs_loop(boxes_a, boxes_b, masks[0], masks[1], 0.7))
    assert torch.equal(pairs.transpose(1, 2), positive_pairs(boxes_b, boxes_a, masks[1], masks[0], pos_ratio=0.7))


def test_cell_centres_are_mirrored_by_a_flip() -> None:
    centres = cell_centres(torch.tensor([[0.0, 0.0, 1.0, 0.5], [1.0, 0.0, 0.0, 0.5]]), 1, 2)
    assert centres.tolist() == [[[0.25, 0.25], [0.75, 0.25]], [[0.75, 0.25], [0.25, 0.25]]]


def test_cell_centres_have_the_precision_and_the_device_of_the_box() -> None:
    centres = cell_centres(torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64), 3, 3)
    assert centres[0, 0].tolist() == [0.5 / 3, 0.5 / 3], "not a power of two, so that less precision would show"
    assert cell_centres(torch.empty(1, 4, device="meta"), 2, 3).device.type == "meta"


def test_cells_as_far_apart_as_the_limit_are_no_pair() -> None:
    """Cells of 3/8 times 1/2, whose diagonal is 5/8: neighbours in a row are 0.6 diagonals apart."""
    box, mask = torch.tensor([[0, 0, 0.75, 1]], dtype=torch.float64), torch.ones(1, 2, 2, dtype=torch.bool)
    assert torch.equal(positive_pairs(box, box, mask, mask, pos_ratio=0.6)[0], torch.eye(4) > 0)
    assert positive_pairs(box, box, mask, mask, pos_ratio=0.61)[0, 0].tolist() == [True, True, False, False]


def test_a_single_cell_with_a_positive_counts_as_much_as_many() -> None:
    predictions, keys = units(2, 3, 8), units(2, 3, 8)
    pairs = torch.ones(2, 3, 3, dtype=torch.bool)
    pairs[0, 1:], pairs[0, 0, 1:] = False, False
    everything = keys.flatten(0, 1)
    found = cell_motion(predictions, keys, pairs, everything, temperature=TAU).loss
    torch.testing.assert_close(found, cell_motion_loop(predictions, keys, pairs, everything, TAU))


def test_keys_with_a_gradient_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match=r"^the keys are constants of the step$"):
        log_sum_exp(units(2, 4), units(3, 4).requires_grad_(), TAU)


def test_cell_motion_agrees_with_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, keys, others = units(3, 6, 8), units(3, 6, 8), units(11, 8)
    pairs = torch.rand(3, 6, 6) > 0.7
    pairs[1] = False
    everything = torch.cat([keys.flatten(0, 1), others])
    for similarities_at_a_time in (2**24, 60, 1):
        monkeypatch.setattr(losses, "MAX_SIMILARITIES", similarities_at_a_time)
        same_gradients(
            lambda p: cell_motion(p, keys, pairs, everything, temperature=TAU).loss,
            lambda p: cell_motion_loop(p, keys, pairs, everything, TAU),
            predictions,
        )


def recorded_cell_motion(case: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Our loss and gradient (B, D, h, w) on a recorded case."""
    parts = {
        key.removeprefix(f"dense_{case}."): value for key, value in golden_parts().items() if f"dense_{case}." in key
    }
    query = parts["q"].to(dtype).requires_grad_()
    key, other = (parts[name].to(dtype).flatten(2).transpose(1, 2) for name in ("k", "k_other_frame"))
    everything = [key.flatten(0, 1), other.flatten(0, 1)]
    if "queue" in parts:
        everything.append(parts["queue"].to(dtype).T)
    pairs = positive_pairs(
        parts["coord_q"], parts["coord_k"], parts["mask_q"].bool(), parts["mask_k"].bool(), pos_ratio=0.7
    )
    loss = cell_motion(query.flatten(2).transpose(1, 2), key, pairs, torch.cat(everything), temperature=TAU).loss
    (gradient,) = torch.autograd.grad(loss, query)
    return loss.detach(), gradient


@pytest.mark.parametrize("case", DENSE_CASES)
def test_cell_motion_agrees_with_the_recorded_numbers(case: str) -> None:
    loss, gradient = recorded_cell_motion(case)
    parts = golden_parts()
    torch.testing.assert_close(loss, parts[f"dense_{case}.loss"][0], rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient, parts[f"dense_{case}.grad_q"], rtol=0, atol=1e-9)


def test_no_positive_anywhere_is_exactly_zero() -> None:
    for dtype in (torch.float32, torch.float64):
        loss, gradient = recorded_cell_motion("all_without_positives", dtype)
        assert loss == 0
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("temperature", [1e-3, 1e-2])
def test_tiny_temperatures_do_not_overflow(temperature: float) -> None:
    query = units(4, 3, 8, dtype=torch.float32).requires_grad_()
    keys, queue = units(4, 3, 8, dtype=torch.float32), units(16, 8, dtype=torch.float32)
    everything = torch.cat([keys.flatten(0, 1), queue])
    pairs = torch.rand(4, 3, 3) > 0.5
    values = [
        info_nce(query[0], keys[0], queue, temperature=temperature).loss,
        kinds(frame_motion(query, keys, keys, queue, temperature=temperature)).sum(),
        cell_motion(query, keys, pairs, everything, temperature=temperature).loss,
    ]
    exact = [
        info_nce(query[0].double(), keys[0].double(), queue.double(), temperature=temperature).loss,
        kinds(
            frame_motion(query.double(), keys.double(), keys.double(), queue.double(), temperature=temperature)
        ).sum(),
        cell_motion(query.double(), keys.double(), pairs, everything.double(), temperature=temperature).loss,
    ]
    for value, reference in zip(values, exact, strict=True):
        (gradient,) = torch.autograd.grad(value, query)
        assert gradient.isfinite().all()
        torch.testing.assert_close(value.double(), reference, rtol=1e-4, atol=1e-4)


def test_losses_are_float32_under_autocast_and_for_half_precision() -> None:
    query, keys, queue = (units(4, 3, 8, dtype=torch.bfloat16) for _ in range(3))
    pairs = torch.ones(4, 3, 3, dtype=torch.bool)

    def all_losses(q: Tensor, k: Tensor, n: Tensor) -> list[Tensor]:
        return [
            info_nce(q[0], k[0], n[0], temperature=TAU).loss,
            kinds(frame_motion(q, k, k, n[0], temperature=TAU)).sum(),
            cell_motion(q, k, pairs, torch.cat([k, n]).flatten(0, 1), temperature=TAU).loss,
        ]

    expected = all_losses(query.float(), keys.float(), queue.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = all_losses(query, keys, queue)
        from_float32 = all_losses(query.float(), keys.float(), queue.float())
    for value, value_from_float32, reference in zip(values, from_float32, expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(value_from_float32, reference, rtol=1e-6, atol=1e-6)
