"""Features of several depths of a network."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fima.backbones.base import Backbone
from fima.backbones.i3d import I3D
from fima.backbones.small import Small
from fima.backbones.tiny import Tiny
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


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (I3D, ["mixed_3c", "mixed_4f", "mixed_5c"]),
        (Small, ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"]),
        (Tiny, [f"layers.{number}" for number in (3, 6, 9, 12, 15)]),
    ],
)
def test_stages_are_modules_that_give_so_many_channels(build: type[Backbone], names: list[str]) -> None:
    encoder, found = build().eval(), dict[str, int]()

    def record(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        found[name] = output.shape[1]

    for name in names:
        encoder.get_submodule(name).register_forward_hook(partial(record, name))
    with torch.no_grad():
        encoder(torch.randn(1, 3, 8, 64, 64))
    assert list(encoder.stages) == names
    assert encoder.stages == found
