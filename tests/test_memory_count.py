"""The count of `benchmarks/memory.py`, on the `tiny` backbone."""

from dataclasses import replace

import pytest
import torch

from memory import META, LiveBytes, bytes_a_pixel, fixed_bytes, peak_bytes, pixels
from tests.small_runs import SMALL_CONFIG

CONFIG = replace(
    SMALL_CONFIG,
    data=replace(SMALL_CONFIG.data, frames=8, crop_size=64),
    optim=replace(SMALL_CONFIG.optim, batch_size=12),
)


def test_tensors_count_while_they_live_and_views_do_not() -> None:
    with LiveBytes() as live:
        first = torch.zeros(250, device=META)
        view = first.view(5, 50)[1:]
        assert live.now == 1000
        second = first.bfloat16()
        assert live.now == 1500
        del first, second
        assert live.now == 1000  # the view holds it
        del view
        assert live.now == 0
        torch.zeros(1000)  # on the host
    assert live.most == 1500


@pytest.mark.slow
def test_the_peak_is_what_the_formula_says() -> None:
    parts = replace(CONFIG, optim=replace(CONFIG.optim, accumulate=3))
    formula = fixed_bytes(parts) + bytes_a_pixel(parts) * pixels(parts)
    assert abs(peak_bytes(parts) / formula - 1) < 0.15


@pytest.mark.slow
def test_recomputation_and_bfloat16_take_less() -> None:
    config = replace(CONFIG, optim=replace(CONFIG.optim, batch_size=4))
    whole = peak_bytes(config)
    assert peak_bytes(replace(config, model=replace(config.model, recompute=True))) < 0.8 * whole
    assert peak_bytes(replace(config, run=replace(config.run, precision="bf16"))) < 0.9 * whole
