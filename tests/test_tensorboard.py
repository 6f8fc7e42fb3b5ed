"""What TensorBoard shows of a run beside its curves: crops, activation maps and embeddings, at intervals."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fima.checkpoints.checkpoint import load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.data.datasets import list_videos
from fima.data.loader import PretrainBatch, build_pretrain_loader
from fima.method.fima import FIMA
from fima.train.pretrain import pretrain
from fima.visual.overlay import GAP_PX
from fima.visual.tensorboard import THUMB_PX, log_pictures
from tests.small_runs import SMALL_CONFIG, with_settings

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def batch(videos: Path) -> PretrainBatch:
    loader = build_pretrain_loader(list_videos(videos, "train"), SMALL_CONFIG.data, batch_size=4, seed=0)
    return next(iter(loader))


def images(folder: Path, tag: str) -> dict[int, NDArray[np.uint8]]:
    """The pictures of one name by step, as TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {event.step: np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) for event in events.Images(tag)}


def embeddings(folder: Path) -> tuple[NDArray[np.float64], list[str], tuple[int, int]]:
    """Vectors, names and the size of the sprite that the projector is pointed at."""
    config = (folder / "projector_config.pbtxt").read_text()
    (found,) = folder.glob("*/embeddings")
    assert config.count(str(found.relative_to(folder) / "tensors.tsv")) == 1
    with Image.open(found / "sprite.png") as sprite:
        size = sprite.size
    names = (found / "metadata.tsv").read_text().splitlines()
    return np.loadtxt(found / "tensors.tsv", delimiter="\t"), names, size


@pytest.mark.parametrize("name", ["fima", "moco"])
def test_crops_maps_and_embeddings_of_a_batch(batch: PretrainBatch, name: str, tmp_path: Path) -> None:
    config = with_settings("method", name=name)
    method = FIMA(config.model, config.method).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    state = torch.get_rng_state()
    log_pictures(tmp_path, method, batch, 7)
    (crops,) = images(tmp_path, "crops").values()
    assert crops.shape == (4 * 32 + 3 * GAP_PX, 6 * 32 + 5 * GAP_PX, 3)
    first = batch.a.full[0, :, 0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(crops[:32, :32], first)
    maps = images(tmp_path, "activation")
    assert maps.keys() == {7}
    assert maps[7].shape == crops.shape
    assert (maps[7] != crops).any()
    vectors, names, sprite = embeddings(tmp_path)
    assert vectors.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert (names, sprite) == (batch.paths, (2 * THUMB_PX, 2 * THUMB_PX))
    assert method.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_the_latest_embeddings_are_kept(batch: PretrainBatch, tmp_path: Path, capsys: Capture) -> None:
    method = FIMA(SMALL_CONFIG.model, SMALL_CONFIG.method)
    odd = replace(batch, paths=["a\tb\n.avi", *batch.paths[1:]])
    for step, shown in ((2, batch), (4, batch), (4, odd)):
        log_pictures(tmp_path, method, shown, step)
    assert images(tmp_path, "crops").keys() == {2, 4}
    vectors, names, _ = embeddings(tmp_path)
    assert len(vectors) == len(names) == 4
    assert names[0] == "a b .avi"
    assert "00004" in (tmp_path / "projector_config.pbtxt").read_text()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("every", "steps"), [(0, set()), (1, {2, 4, 6}), (2, {4, 6})])
def test_a_run_shows_pictures_at_intervals_and_trains_as_without(
    every: int, steps: set[int], videos: Path, tmp_path: Path
) -> None:
    config = with_settings("optim", with_settings("run", health_epochs=0), epochs=3)
    states = []
    for name, number in (("with", every), ("without", 0)):
        run = RunFolder(tmp_path / name)
        pretrain(with_settings("run", config, picture_epochs=number), data=videos, out=run.root)
        states.append(load_checkpoint(run.last).model)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    shown = tmp_path / "with" / "pictures"
    assert shown.exists() == bool(every)
    assert not every or images(shown, "activation").keys() == steps


def test_a_resumed_run_goes_on_with_its_pictures(videos: Path, tmp_path: Path) -> None:
    config = with_settings("run", health_epochs=0, picture_epochs=1)
    pretrain(config, data=videos, out=tmp_path)
    pretrain(with_settings("optim", config, epochs=3), data=videos, out=tmp_path, resume=True)
    assert images(tmp_path / "pictures", "crops").keys() == {2, 4, 6}


def test_pictures_that_cannot_be_written_stop_nothing(videos: Path, tmp_path: Path, capsys: Capture) -> None:
    config = with_settings("optim", with_settings("run", health_epochs=0), epochs=1)
    run = RunFolder(tmp_path / "run")
    pretrain(with_settings("run", config, picture_epochs=0), data=videos, out=run.root)
    run.pictures.write_text("in the way")
    longer = with_settings("optim", config, epochs=2)
    assert pretrain(longer, data=videos, out=run.root, resume=True).progress.epoch == 2
    assert "no pictures, since they cannot be written" in capsys.readouterr().err
