import pytest
import torch

from fima.config import MethodConfig, ModelConfig
from fima.convert import fima_to_official, official_to_fima
from fima.errors import CheckpointError
from fima.model import build_method
from tests.reference import golden_numbers, noise_state

STEP_CASES = ["step_I3D_ucf101", "step_I3D_k400", "step_r2plus1d_18_ucf101"]


@pytest.mark.parametrize("name", STEP_CASES)
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_official_keys_survive_the_way_to_ours_and_back(name: str, prefix: str) -> None:
    shapes = {key: shape for key, shape in golden_numbers()[name]["keys"].items() if "mixed_4" not in key}
    state = {prefix + key: value for key, value in noise_state(shapes).items()}
    restored = fima_to_official(official_to_fima(state), prefix=prefix)
    assert restored.keys() == state.keys()
    for key, value in state.items():
        assert restored[key].dtype == value.dtype
        assert torch.equal(restored[key], value), key


@pytest.mark.parametrize("name", ["fima", "moco"])
def test_our_keys_survive_the_way_to_theirs_and_back(name: str) -> None:
    method = MethodConfig(name="fima" if name == "fima" else "moco", queue_size=6, cell_queue_size=10)
    state = build_method(ModelConfig(backbone="tiny"), method).state_dict()
    official = fima_to_official(state)
    assert all(key.startswith("module.") for key in official)
    restored = official_to_fima(official)
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[key], value) for key, value in state.items())


def test_a_key_of_something_else_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"backbone\.conv1\.weight: not a key of"):
        official_to_fima({"backbone.conv1.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="queue_of_cells"):
        fima_to_official({"queue_of_cells": torch.zeros(1)})
