from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision_functional

from fima.config import DataConfig
from fima.data import augment
from fima.data.augment import (
    BRIGHTNESS,
    GRAYSCALE,
    JITTER,
    MEAN,
    ORDER,
    SIGMA,
    STD,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    apply_colour,
    blur_kernel_size,
    draw_colour,
    gaussian_blur,
    make_inputs,
    to_grayscale,
)
from fima.data.views import ClipViews
from fima.errors import ConfigError
from fima.method.inputs import View
from fima.method.motion import frame_difference
from tests.small_runs import with_settings

JITTER_PAIRS = (
    (adjust_brightness, torchvision_functional.adjust_brightness),
    (adjust_contrast, torchvision_functional.adjust_contrast),
    (adjust_saturation, torchvision_functional.adjust_saturation),
    (adjust_hue, torchvision_functional.adjust_hue),
)


def clips(num_clips: int, size: int = 20, frames: int = 3) -> Tensor:
    x = torch.rand(num_clips, 3, frames, size, size, generator=torch.Generator().manual_seed(0))
    x[:, :, :, :2] = (x[:, :, :, :2] * 3).floor() / 2  # ties between channels, black, white and gray
    return x


def frames_first(clip: Tensor) -> Tensor:
    return clip.transpose(0, 1)


def by_torchvision(clip: Tensor, draws: Tensor) -> Tensor:
    """One clip (3, T, H, W), operation after operation, by torchvision's functions on its frames."""
    frames = frames_first(clip)
    if draws[GRAYSCALE]:
        frames = torchvision_functional.rgb_to_grayscale(frames, num_output_channels=3)
    if draws[JITTER]:
        for operation in draws[ORDER].tolist():
            frames = JITTER_PAIRS[int(operation)][1](frames, float(draws[BRIGHTNESS + int(operation)]))
    if draws[SIGMA]:
        size = blur_kernel_size(frames.shape[-1])
        frames = torchvision_functional.gaussian_blur(frames, [size, size], [float(draws[SIGMA])] * 2)
    return frames_first(torchvision_functional.normalize(frames, list(MEAN), list(STD)))


@pytest.mark.parametrize(("ours", "theirs"), JITTER_PAIRS)
def test_jitter_operations_are_torchvisions(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor]
) -> None:
    x = clips(4)
    factors = torch.tensor([-0.1, 0.07, 1 / 6, -1 / 6]) if ours is adjust_hue else torch.tensor([0.6, 0.93, 1.2, 1.4])
    changed = ours(x.clone(), factors)
    for clip, result, factor in zip(x, changed, factors.tolist(), strict=True):
        torch.testing.assert_close(result, frames_first(theirs(frames_first(clip), factor)), atol=2e-6, rtol=0)


def test_hue_leaves_gray_and_zero_turns_alone() -> None:
    gray = to_grayscale(clips(2), torch.ones(2))
    torch.testing.assert_close(adjust_hue(gray.clone(), torch.tensor([0.1, -0.1])), gray)
    torch.testing.assert_close(adjust_hue(clips(2), torch.zeros(2)), clips(2), atol=1e-6, rtol=0)


def test_no_blur_multiplies_by_numbers_that_slow_a_cpu_down(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = []
    blur_matrices = augment._blur_matrices

    def record(kernel: Tensor, size: int) -> Tensor:
        kernels.append(kernel)
        return blur_matrices(kernel, size)

    monkeypatch.setattr(augment, "_blur_matrices", record)
    gaussian_blur(clips(20, size=112, frames=1), torch.linspace(0.1, 2, 20))
    weights = torch.cat(kernels)
    assert (weights == 0).any()
    assert (weights[weights != 0] >= torch.finfo(torch.float32).tiny).all()


@pytest.mark.parametrize("size", [20, 32, 64, 75])
def test_blur_is_torchvisions(size: int) -> None:
    x = clips(3, size=size, frames=2)
    sigma = torch.tensor([0.1, 0.8, 2.0])
    kernel = [blur_kernel_size(size)] * 2
    for clip, result, value in zip(x, gaussian_blur(x.clone(), sigma), sigma.tolist(), strict=True):
        expected = torchvision_functional.gaussian_blur(frames_first(clip), kernel, [value, value])
        torch.testing.assert_close(result, frames_first(expected), atol=2e-6, rtol=0)


def test_kernel_sizes() -> None:
    assert [blur_kernel_size(size) for size in (8, 20, 64, 112, 224)] == [1, 3, 7, 11, 23]
    x = clips(1, size=8)
    assert torch.equal(gaussian_blur(x.clone(), torch.tensor([2.0])), x)


def all_at_once(num_clips: int, _: torch.device) -> list[slice]:
    """How a GPU takes the clips."""
    return [slice(0, num_clips)]


@pytest.mark.parametrize("frames_at_once", [1, 2, 100])
@pytest.mark.parametrize("batched", [False, True])
def test_a_batch_equals_torchvision_clip_by_clip(
    frames_at_once: int, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "CPU_FRAMES_AT_ONCE", frames_at_once)
    if batched:
        monkeypatch.setattr(augment, "_parts", all_at_once)
    x = clips(24)
    before = x.clone()
    draws = draw_colour(np.random.default_rng(0), 24, DataConfig())
    expected = torch.stack([by_torchvision(clip, row) for clip, row in zip(x, draws, strict=True)])
    torch.testing.assert_close(apply_colour(x, draws), expected, atol=3e-5, rtol=0)
    assert torch.equal(x, before)


def test_without_operations_only_normalises() -> None:
    x = clips(2)
    expected = torch.stack([by_torchvision(clip, torch.zeros(11)) for clip in x])
    torch.testing.assert_close(apply_colour(x, torch.zeros(2, 11)), expected)


def test_autocast_does_not_reach_the_colours() -> None:
    x, draws = clips(8), draw_colour(np.random.default_rng(1), 8, DataConfig())
    draws[:, SIGMA] = 1.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coloured = apply_colour(x, draws)
    assert torch.equal(coloured, apply_colour(x, draws))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree() -> None:
    x, draws = clips(24), draw_colour(np.random.default_rng(0), 24, DataConfig())
    torch.testing.assert_close(apply_colour(x.cuda(), draws).cpu(), apply_colour(x, draws), atol=3e-5, rtol=0)


def test_draws_follow_from_the_generator() -> None:
    draws, again = (draw_colour(np.random.default_rng(0), 40, DataConfig()) for _ in range(2))
    assert draws.dtype == torch.float32
    assert draws.shape == (40, 11)
    assert torch.equal(draws, again)
    assert (draws[:, ORDER].sort(dim=1).values == torch.arange(4.0)).all()


def views(num_clips: int = 3) -> ClipViews:
    generator = torch.Generator().manual_seed(0)
    full, early, late = (
        torch.randint(0, 256, (num_clips, 3, 4, 20, 20), dtype=torch.uint8, generator=generator) for _ in range(3)
    )
    return ClipViews(full=full, early=early, late=late, box=torch.rand(num_clips, 4, generator=generator))


def test_each_tensor_gets_its_own_draws_after_the_difference() -> None:
    sampled = views()
    draws = torch.stack([draw_colour(np.random.default_rng(seed), 4, DataConfig()) for seed in range(3)])
    inputs = make_inputs(sampled, draws)
    torch.testing.assert_close(inputs.full, apply_colour(sampled.full / 255, draws[:, 0]))
    for position, view, result in (
        (1, sampled.full, inputs["full_difference"]),
        (2, sampled.early, inputs["early_difference"]),
        (3, sampled.late, inputs["late_difference"]),
    ):
        torch.testing.assert_close(result, apply_colour(frame_difference(view / 255), draws[:, position]))
    assert torch.equal(inputs.box, sampled.box)


def test_local_differences_may_keep_every_second_frame() -> None:
    sampled = views()
    draws = torch.stack([draw_colour(np.random.default_rng(seed), 4, DataConfig()) for seed in range(3)])
    inputs = make_inputs(sampled, draws, local_stride=2)
    assert inputs["full_difference"].shape[2] == 4
    for position, view, result in (
        (2, sampled.early, inputs["early_difference"]),
        (3, sampled.late, inputs["late_difference"]),
    ):
        neighbours = frame_difference(view / 255)[:, :, ::2]
        torch.testing.assert_close(result, apply_colour(neighbours, draws[:, position]))


def test_a_local_stride_that_leaves_one_frame_is_refused() -> None:
    assert with_settings("method", local_stride=3).method.local_stride == 3
    with pytest.raises(ConfigError, match=r"--method.local-stride 4: must leave two of the 4 frames or more"):
        with_settings("method", local_stride=4)


@pytest.mark.parametrize(
    "names", [(), ("full_difference",), ("early_difference", "late_difference"), ("full", "late_difference")]
)
def test_unwanted_differences_are_left_out_and_change_nothing_else(names: tuple[View, ...]) -> None:
    sampled = views()
    draws = torch.stack([draw_colour(np.random.default_rng(seed), 4, DataConfig()) for seed in range(3)])
    everything = make_inputs(sampled, draws)
    inputs = make_inputs(sampled, draws, names)
    assert set(inputs.views) == {"full", *names}
    for view in inputs.views:
        torch.testing.assert_close(inputs[view], everything[view])
