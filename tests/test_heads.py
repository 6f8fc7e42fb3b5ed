from dataclasses import replace

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool3d, normalize

from fima.config import MethodConfig, ModelConfig
from fima.errors import ConfigError
from fima.method.base import Method
from fima.method.fima import FIMA
from fima.method.heads import Projector, cells, grid_pooled, pooled
from fima.method.prediction import early_and_late
from fima.method.registry import METHODS, method_builder


def test_a_projector_is_two_layers_with_a_relu_between_them() -> None:
    torch.manual_seed(0)
    projector = Projector(num_features=6, hidden=5, dim=3)
    weights = projector.state_dict()
    features = torch.randn(2, 4, 6)
    hidden = (features @ weights["layers.0.weight"].T + weights["layers.0.bias"]).clamp(min=0)
    expected = normalize(hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"], dim=-1)
    torch.testing.assert_close(projector(features), expected)


def test_pooled_is_the_mean_of_the_cells() -> None:
    features = torch.arange(2 * 3 * 2 * 2 * 2, dtype=torch.float32).view(2, 3, 2, 2, 2)
    assert cells(features)[1, 0, :, 2].tolist() == [40, 41, 42, 43]
    assert torch.equal(pooled(features), cells(features).mean(dim=(1, 2)))


@pytest.mark.parametrize("sizes", [(4, 6, 2), (3, 5, 7), (1, 1, 1), (2, 1, 3)])
def test_a_grid_is_that_of_adaptive_pooling(sizes: tuple[int, int, int]) -> None:
    features = torch.randn(2, 3, *sizes)
    torch.testing.assert_close(grid_pooled(features), adaptive_avg_pool3d(features, 2).flatten(1))
    assert grid_pooled(features.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("num_slices", "first", "last"),
    [(1, [0], [0]), (2, [0], [1]), (3, [0, 1], [1, 2]), (4, [0, 1], [2, 3]), (5, [0, 1, 2], [2, 3, 4])],
)
def test_the_middle_slice_serves_early_and_late(num_slices: int, first: list[int], last: list[int]) -> None:
    slices = normalize(torch.randn(2, num_slices, 4), dim=-1)
    expected = [normalize(slices[:, places].mean(dim=1), dim=-1) for places in (first, last)]
    torch.testing.assert_close(early_and_late(slices), torch.stack(expected))


def test_the_token_of_a_clip_begins_small() -> None:
    torch.manual_seed(0)
    method = MethodConfig(queue_size=2, cell_queue_size=0)
    token = FIMA(ModelConfig(backbone="tiny", decoder_dim=512), method).get_parameter("cls_token")
    assert token.std().item() == pytest.approx(0.02, rel=0.2)


def test_options_reach_a_method_and_those_that_it_does_not_take_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[object] = []

    def build(model: ModelConfig, method: MethodConfig, *, depth: int) -> Method:
        got.extend([model.backbone, method.name, depth])
        return FIMA(model, replace(method, name="fima", queue_size=2, cell_queue_size=0))

    monkeypatch.setattr(METHODS, "registered", {"mine": build})
    method_builder(MethodConfig(name="mine", options=("depth=3",)))(ModelConfig(backbone="tiny"))
    assert got == ["tiny", "mine", 3]
    with pytest.raises(ConfigError, match=r"^--method\.name min: .*mine"):
        method_builder(MethodConfig(name="min"))
    with pytest.raises(ConfigError, match=r"^--method\.options a=1 b=x: fima does not take them \(.*'a'"):
        method_builder(MethodConfig(options=("a=1", "b=x")))
