"""Features of several depths of a network."""

import pytest
import torch
from torch import Tensor, nn

from fima.errors import ConfigError
from fima.evaluate.features import (
    Features,
    encode,
    encode_difference,
    encoder_source,
)


class TwoLayers(nn.Module):
    """Two stages, the second with its channels last as in transformers; counts its passes."""

    stages = {"first": 3, "second": 5}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(3, 3, (1, 4, 4), (1, 4, 4))
        self.second = nn.Linear(3, 5)
        self.num_clips = 0

    def forward(self, clip: Tensor) -> Tensor:
        self.num_clips += len(clip)
        found: Tensor = self.second(self.first(clip).movedim(1, -1))
        return found.movedim(-1, 1)


def test_depths_are_the_averages_of_all_stages() -> None:
    encoder = TwoLayers().eval()
    clips = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    source = encoder_source(encoder, "x", ("avg", "both:depths", "grid"))
    pooled = source.pool(clips)[:, None]
    assert source.depth == 8
    assert encoder.num_clips == 4
    found = Features(
        pooled=pooled, labels=torch.zeros(2), paths=["a", "b"], undecodable=[], parts=source.parts, depth=source.depth
    )
    for stream, run in (("", encode), ("difference:", encode_difference)):
        first = run(encoder.first, clips).mean(dim=(2, 3, 4))
        second = run(encoder, clips).mean(dim=(2, 3, 4))
        torch.testing.assert_close(found.columns(f"{stream}depths")[:, 0], torch.cat([first, second], dim=1))
    torch.testing.assert_close(found.columns("both:depths")[..., :8], found.columns("depths"))
    assert found.columns("grid").shape == (2, 1, 40)
    with pytest.raises(ConfigError, match="--features depths: this encoder does not name its stages"):
        encoder_source(nn.Identity(), "x", ("avg", "depths"))
