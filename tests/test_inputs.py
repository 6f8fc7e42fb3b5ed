import pytest
import torch

from fima.method.inputs import ClipInputs


def test_a_missing_view_is_named() -> None:
    clip = ClipInputs(views={"full": torch.empty(1)}, box=torch.empty(1, 4))
    with pytest.raises(ValueError, match=r"^the clip has no view `late_difference`, which a loss that .* needs$"):
        clip["late_difference"]
