"""`method.exclude_same_video`: keys of the query's own video are no negatives, by loops over samples and keys."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from fima.config import MethodConfig, ModelConfig
from fima.method.fima import FIMA
from fima.method.inputs import VIEWS, ClipInputs
from fima.method.losses import positive_pairs
from tests.reference import cell_motion_loop, info_nce_loop

MODEL = ModelConfig(backbone="tiny", projector_hidden=16, embedding_dim=8, decoder_dim=16, decoder_heads=2)
METHOD = MethodConfig(queue_size=9, cell_queue_size=40, exclude_same_video=True)
VIDEOS = [0, 1, 0, 2]
EARLIER = [2, 0, 3]


def clip(seed: int, videos: list[int]) -> ClipInputs:
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(4, len(videos), 3, 4, 32, 32, generator=generator, dtype=torch.float64)
    corners = torch.rand(len(videos), 4, generator=generator, dtype=torch.float64) * 0.2
    box = corners + torch.tensor([0, 0, 0.8, 0.8])
    return ClipInputs(views=dict(zip(VIEWS, views, strict=True)), box=box, videos=torch.tensor(videos))


@pytest.fixture(scope="module")
def method() -> FIMA:
    """Queues that hold keys of an earlier step, and some of no video."""
    torch.manual_seed(0)
    method = FIMA(MODEL, METHOD).double().eval()
    method(clip(0, EARLIER), clip(1, EARLIER))
    return method


def counted(negatives: Tensor, videos: list[int], own: int) -> Tensor:
    """The negatives of other videos than `own`."""
    return negatives[[row for row, video in enumerate(videos) if video != own]]


def expected_instance(keys: Tensor, ids: list[int], position: int, clips: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The instance loss of both clips, each an embedding and a key; the keys of the first are in the second's queue."""
    expected = torch.zeros((), dtype=torch.float64)
    for embedding, key in clips:
        for row, video in enumerate(VIDEOS):
            rows = slice(row, row + 1)
            negatives = counted(keys, ids, video)
            expected += info_nce_loop(embedding[rows], key[rows], negatives, METHOD.temperature) / 8
        for number, new in enumerate(key):
            keys[(position + number) % len(keys)], ids[(position + number) % len(keys)] = new, VIDEOS[number]
        position = 0  # the queue is a ring, and the order of its keys does not matter to a sum
    return expected


def expected_frame(keys: Tensor, ids: list[int], predictions: Tensor, batch: Tensor) -> Tensor:
    """The frame loss; predictions and keys are (4 kinds, B, D)."""
    samples, total = range(len(VIDEOS)), torch.zeros((), dtype=torch.float64)
    for kind in range(4):
        for row in samples:
            negatives = [
                batch[other, sample]
                for other in range(4)
                for sample in samples
                if other != kind and (sample == row or VIDEOS[sample] != VIDEOS[row])
            ]
            stack = torch.stack([*negatives, *counted(keys, ids, VIDEOS[row])])
            rows = slice(row, row + 1)
            total += info_nce_loop(predictions[kind, rows], batch[kind, rows], stack, METHOD.temperature) / 16
    return total


def expected_cell(
    keys: Tensor, ids: list[int], predictions: list[Tensor], directions: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """The cell loss; for each direction the keys' cells and the positive pairs."""
    losses, samples = [], range(len(VIDEOS))
    for prediction, (cells, positives) in zip(predictions, directions, strict=True):
        for index in range(cells.shape[1]):
            each = []
            for row in samples:
                if not positives[row].any():
                    continue
                others = [cells[s].flatten(0, 1) for s in samples if s == row or VIDEOS[s] != VIDEOS[row]]
                everything = torch.cat([*others, counted(keys, ids, VIDEOS[row])])
                rows = slice(row, row + 1)
                each.append(
                    cell_motion_loop(
                        prediction[rows, index], cells[rows, index], positives[rows], everything,
                        METHOD.cell_temperature,
                    )
                )  # fmt: skip
            losses.append(torch.stack(each).mean())
    return torch.stack(losses).mean()


def test_each_loss_is_that_of_loops_that_pass_over_the_own_video(method: FIMA) -> None:
    a, b = clip(2, VIDEOS), clip(3, VIDEOS)
    with torch.no_grad():
        method.update_key_networks()
        keys_a, keys_b, query = method.key_pass(a), method.key_pass(b), method.query_pass(a, b)
    queues = {
        name: (queue.keys.clone(), cast(Tensor, queue.video_ids).tolist()) for name, queue in method.queues.items()
    }
    assert {name: sorted(set(ids)) for name, (_, ids) in queues.items()} == {
        "instance": [-1, 0, 2, 3], "frame": [0, 2, 3], "cell": [-1, 0, 2, 3]
    }  # fmt: skip
    key_a, key_b = keys_a["cell"], keys_b["cell"]
    pairs = positive_pairs(a.box, b.box, key_a.mask, key_b.mask, pos_ratio=METHOD.pos_ratio)
    embeddings = list(zip(query.embeddings, (keys_b["instance"], keys_a["instance"]), strict=True))
    predictions = torch.cat([prediction.frames for prediction in query.predictions])
    expected = {
        "instance": expected_instance(*queues["instance"], int(method.queues["instance"].position), embeddings),
        "frame": expected_frame(*queues["frame"], predictions, torch.cat([keys_b["frame"], keys_a["frame"]])),
        "cell": expected_cell(
            *queues["cell"],
            [prediction.cells for prediction in query.predictions],
            [(key_b.cells, pairs), (key_a.cells, pairs.transpose(1, 2))],
        ),
    }
    step = method(a, b, update_keys=False)
    for name, value in expected.items():
        torch.testing.assert_close(step.parts[name], value.detach(), rtol=1e-9, atol=1e-11)
    assert step.each is not None
    assert len(set(step.each.tolist())) == len(VIDEOS)
    assert (pairs.flatten(1).any(dim=1)).all()
    torch.testing.assert_close(step.each.mean(), step.total.detach(), rtol=1e-6, atol=1e-6)


def test_without_it_the_ids_change_nothing_and_no_queue_has_them() -> None:
    torch.manual_seed(0)
    plain = FIMA(MODEL, replace(METHOD, exclude_same_video=False)).double().eval()
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    with_ids = plain(clip(2, VIDEOS), clip(3, VIDEOS)).total
    plain.load_state_dict(state)
    without = plain(*(replace(clip(seed, VIDEOS), videos=None) for seed in (2, 3))).total
    assert with_ids == without
    assert not any(name.endswith("video_ids") for name in state)


def test_clips_must_say_their_videos(method: FIMA) -> None:
    with pytest.raises(ValueError, match="do not say of which videos"):
        method(replace(clip(2, VIDEOS), videos=None), clip(3, VIDEOS))


def test_without_a_queue_of_cells_only_those_of_the_batch_are_left_out() -> None:
    torch.manual_seed(0)
    alone = FIMA(MODEL, replace(METHOD, cell_queue_size=0, instance_weight=0, frame_weight=0)).double().eval()
    one_video, others = clip(2, [0, 0]), clip(2, [0, 1])
    found = [alone(each, each, update_keys=False).total for each in (one_video, others)]
    assert found[0] < found[1]  # fewer negatives
