import pytest
import torch

from fima.method.foreground import activation_map, foreground_mask
from tests.reference import golden_parts


@pytest.mark.parametrize("case", ["foreground7", "foreground4"])
def test_agrees_with_the_recorded_masks(case: str) -> None:
    parts = golden_parts()
    mask = foreground_mask(activation_map(parts[f"{case}.rgb"], parts[f"{case}.diff"]))
    assert torch.equal(mask, parts[f"{case}.mask"].bool())


def test_the_map_is_the_mean_over_channels_and_time_of_both_inputs() -> None:
    features, motion = torch.rand(2, 2, 5, 3, 4, 6)
    expected = torch.zeros(2, 4, 6)
    for sample in range(2):
        for channel in range(5):
            for time in range(3):
                expected[sample] += (features[sample, channel, time] + motion[sample, channel, time]) / 15
    torch.testing.assert_close(activation_map(features, motion), expected)
    torch.testing.assert_close(activation_map(features) + activation_map(motion), expected)


def test_half_of_an_even_number_of_cells_and_less_than_half_of_an_odd_one_is_foreground() -> None:
    assert foreground_mask(torch.randperm(16).view(1, 4, 4).float()).sum() == 8
    assert foreground_mask(torch.randperm(49).view(1, 7, 7).float()).sum() == 24


def test_each_sample_has_its_own_median_and_equal_cells_are_background() -> None:
    activation = torch.stack([torch.full((2, 2), 9.0), torch.tensor([[0.0, 1.0], [2.0, 3.0]])])
    assert foreground_mask(activation).tolist() == [[[False, False]] * 2, [[False, False], [True, True]]]


def test_half_precision_features_are_averaged_in_float32() -> None:
    features = torch.rand(1, 512, 2, 4, 4).bfloat16()
    torch.testing.assert_close(activation_map(features), features.double().mean(dim=(1, 2)).float())
