import torch
from torch.nn.functional import normalize

from fima.method.heads import Projector, cells, pooled


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
