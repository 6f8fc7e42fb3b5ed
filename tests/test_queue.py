import pytest
import torch

from fima.method.queue import KeyQueue


def rows(first: int, num: int) -> torch.Tensor:
    return torch.arange(first, first + num).float()[:, None].expand(-1, 2)


def test_starts_with_unit_vectors() -> None:
    torch.testing.assert_close(KeyQueue(7, 16).keys.norm(dim=1), torch.ones(7))


@pytest.mark.parametrize("size", [1, 5, 30])
@pytest.mark.parametrize("writes", [[3, 3, 3], [5], [1, 7, 2], [12], [2, 13, 4], [0, 6, 0], [50, 31, 1]])
def test_the_newest_rows_remain_whatever_the_batches(size: int, writes: list[int]) -> None:
    queue = KeyQueue(size, 2)
    expected = dict(enumerate(queue.keys[:, 0].tolist()))
    written = 0
    for num in writes:
        queue.write(rows(written, num))
        for row in range(written, written + num):
            expected[row % size] = float(row)
        written += num
        assert queue.keys[:, 0].tolist() == list(expected.values())
        assert int(queue.position) == written % size


def test_a_snapshot_keeps_its_values_for_the_backward_pass() -> None:
    queue = KeyQueue(4, 2)
    query = torch.randn(3, 2, requires_grad=True)
    before = queue.keys.clone()
    similarities = query @ queue.snapshot().T
    queue.write(rows(0, 3))
    (gradient,) = torch.autograd.grad(similarities.sum(), query)
    torch.testing.assert_close(gradient, before.sum(dim=0).expand(3, -1))


def test_is_part_of_the_state_and_takes_any_precision() -> None:
    queue, other = KeyQueue(4, 2), KeyQueue(4, 2)
    queue.write(rows(0, 3).bfloat16())
    assert queue.keys.dtype == torch.float32
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys, queue.keys)
    assert int(other.position) == 3
