"""The backbones and their layers against PyTorch's plain operations, on small tensors."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fima.backbones.cpu_layout import largest_neighbour, pixels_in_blocks, weight_in_blocks
from fima.backbones.i3d import I3D, MIXED_CHANNELS, ConvUnit, MaxPool, Mixed, same_padding
from fima.backbones.small import Block, MotionStem, Small, Space, Time
from fima.backbones.tiny import Tiny
from tests.reference import golden_numbers, noise_state

Weights = dict[str, Tensor]


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def with_noise(network: nn.Module) -> Weights:
    """Give a network, of float64 and in evaluation, the noise of the golden numbers; return its weights."""
    network.double().eval()
    weights = noise_state({name: list(value.shape) for name, value in network.state_dict().items()})
    network.load_state_dict(weights)
    return weights


def normalised(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (
        weights[f"{name}.{kind}"][:, None, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME padding, of sizes that the stride divides."""
    sides: list[int] = []
    for k, s in zip(reversed(kernel), reversed(stride), strict=True):
        sides += [max(k - s, 0) // 2, math.ceil(max(k - s, 0) / 2)]
    return functional.pad(x, sides)


def unit_loop(weights: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = weights[f"{name}.conv3d.weight"]
    padded = same(x, tuple(kernel.shape[2:]), (stride,) * 3)
    return functional.relu(normalised(weights, f"{name}.batch3d", functional.conv3d(padded, kernel, stride=stride)))


def pool_loop(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The largest value of each window; the first one begins the smaller half of `kernel - stride` before the edge."""
    result = torch.zeros(*x.shape[:2], *(math.ceil(n / s) for n, s in zip(x.shape[2:], stride, strict=True)))
    result = result.to(x.dtype)
    for place in itertools.product(*map(range, result.shape[2:])):
        window = x
        for dim, (i, k, s) in enumerate(zip(place, kernel, stride, strict=True), start=2):
            first = i * s - max(k - s, 0) // 2
            window = window[(slice(None),) * dim + (slice(max(first, 0), first + k),)]
        result[:, :, place[0], place[1], place[2]] = window.amax(dim=(2, 3, 4)).clamp(min=0)
    return result


def mixed_loop(weights: Weights, name: str, x: Tensor) -> Tensor:
    one = unit_loop(weights, f"{name}branch_0", x)
    two = unit_loop(weights, f"{name}branch_1.1", unit_loop(weights, f"{name}branch_1.0", x))
    three = unit_loop(weights, f"{name}branch_2.1", unit_loop(weights, f"{name}branch_2.0", x))
    four = unit_loop(weights, f"{name}branch_3.1", pool_loop(x, (3, 3, 3), (1, 1, 1)))
    return torch.cat([one, two, three, four], dim=1)


def test_blocks_of_pixels_give_the_convolution_of_seven() -> None:
    clip, weight = double(2, 3, 4, 6, 8), double(5, 3, 7, 7, 7)
    blocks = pixels_in_blocks(clip, torch.float64)
    assert blocks.shape == (2, 24, 5, 6, 7)
    assert blocks.is_contiguous(memory_format=torch.channels_last_3d)
    expected = functional.conv3d(functional.pad(clip, [2, 3] * 3), weight, stride=2)
    close(functional.conv3d(blocks, weight_in_blocks(weight)), expected)
    assert pixels_in_blocks(clip, torch.bfloat16).dtype == torch.bfloat16
    assert pixels_in_blocks(clip.to("meta"), torch.bfloat16).device.type == "meta"


@pytest.mark.parametrize("shape", [(2, 3, 1, 1, 1), (1, 2, 2, 1, 5), (2, 2, 3, 4, 2)])
def test_the_largest_neighbour_is_max_pooling(shape: tuple[int, ...]) -> None:
    x = double(*shape)
    before = x.clone()
    assert torch.equal(largest_neighbour(x), functional.max_pool3d(x, 3, stride=1, padding=1))
    assert torch.equal(x, before)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (7, 2)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_a_unit_is_convolution_batch_norm_and_relu(kernel: int, stride: int, memory: torch.memory_format) -> None:
    unit = ConvUnit(3, 5, kernel, stride)
    weights = with_noise(unit)
    assert [*weights] == [*unit.state_dict()]
    assert "conv3d.bias" not in weights
    clip = double(2, 3, 4, 6, 8).contiguous(memory_format=memory)
    expected = unit_loop({f"unit.{name}": value for name, value in weights.items()}, "unit", clip, stride)
    close(unit(clip), expected)
    close(unit.before_relu(clip).clamp(min=0), expected)
    assert unit.before_relu(clip).min() < 0


def test_the_first_unit_in_bfloat16_takes_blocks_of_even_clips_and_plain_pixels_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[torch.dtype] = []

    def recorded(clip: Tensor, dtype: torch.dtype) -> Tensor:
        taken.append(dtype)
        return pixels_in_blocks(clip, dtype)

    monkeypatch.setattr("fima.backbones.i3d.pixels_in_blocks", recorded)
    unit = ConvUnit(3, 4, kernel=7, stride=2).eval()
    for size in (6, 7):
        clip = torch.randn(1, 3, 4, size, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = unit(clip)
        assert taken == [torch.bfloat16]
        torch.testing.assert_close(found.float(), unit(clip), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
@pytest.mark.parametrize("size", [(4, 6, 8), (3, 5, 4), (1, 7, 7)])
def test_pooling_takes_the_largest_of_each_window(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    x = double(2, 3, *size).clamp(min=0)
    pool = MaxPool(kernel, stride)
    expected = pool_loop(x, kernel, stride)
    close(pool(x), expected)
    with torch.no_grad():
        close(pool(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool(x.bfloat16()).dtype == torch.bfloat16


def test_the_fast_pooling_is_for_passes_without_gradient_that_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Tensor] = []

    def recorded(x: Tensor) -> Tensor:
        taken.append(x)
        return largest_neighbour(x)

    monkeypatch.setattr("fima.backbones.i3d.largest_neighbour", recorded)
    pool, x = MaxPool((3, 3, 3), (1, 1, 1)), double(1, 2, 3, 3, 3)
    pool(x)
    assert not taken
    with torch.no_grad():
        pool(x)
        assert len(taken) == 1
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        pool(x)
        assert len(taken) == 1


def test_an_inception_block_joins_four_branches() -> None:
    block = Mixed(4, (3, 5, 2, 4, 6, 1))
    weights = with_noise(block)
    clip = double(2, 4, 3, 4, 5).clamp(min=0)
    assert block.out_channels == 3 + 2 + 6 + 1
    close(block(clip), mixed_loop(weights, "", clip))


def test_i3d_is_made_of_these() -> None:
    network = I3D()
    weights = with_noise(network)
    recorded = golden_numbers()["encoder_I3D"]["keys"]
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == recorded
    pools = {name: (m.kernel, m.stride) for name, m in network.named_children() if isinstance(m, MaxPool)}
    assert pools == {
        "maxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
        "maxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
        "maxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
        "maxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    }
    clip = double(1, 3, 8, 32, 32)
    x = pool_loop(unit_loop(weights, "conv3d_1a_7x7", clip, 2), (1, 3, 3), (1, 2, 2))
    x = unit_loop(weights, "conv3d_2c_3x3", unit_loop(weights, "conv3d_2b_1x1", x))
    x = pool_loop(x, (1, 3, 3), (1, 2, 2))
    for name in MIXED_CHANNELS:
        if name == "mixed_4b":
            x = pool_loop(x, (3, 3, 3), (2, 2, 2))
        if name == "mixed_5b":
            x = pool_loop(x, (2, 2, 2), (2, 2, 2))
        x = mixed_loop(weights, f"{name}.", x)
    with torch.no_grad():
        close(network(clip), x)


def tiny_loop(weights: Weights, clip: Tensor) -> Tensor:
    x = (clip - clip.mean(dim=(1, 2, 3, 4), keepdim=True)) / (
        clip.var(dim=(1, 2, 3, 4), correction=0, keepdim=True) + 1e-4
    ).sqrt()
    strides = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1))
    for number, stride in enumerate(strides):
        weight = weights[f"layers.{3 * number + 1}.weight"]
        x = functional.conv3d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        x = normalised(weights, f"layers.{3 * number + 2}", x).clamp(min=0)
    return x


@pytest.mark.parametrize("contrast", [1.0, 0.01])
def test_tiny_is_five_convolutions_of_a_clip_of_mean_0_and_variance_1(contrast: float) -> None:
    network = Tiny()
    weights = with_noise(network)
    assert [list(weights[f"layers.{i}.weight"].shape[:2]) for i in (1, 4, 7, 10, 13)] == [
        [16, 3], [32, 16], [64, 32], [128, 64], [512, 128]
    ]  # fmt: skip
    assert "layers.1.bias" not in weights
    clip = 3 + contrast * double(2, 3, 4, 32, 48)
    with torch.no_grad():
        close(network(clip), tiny_loop(weights, clip))


def block_loop(weights: Weights, x: Tensor, time: int, space: int) -> Tensor:
    """Convolutions at 0, 3, 6 and 9 of the body, each with its batch norm; the shortcut averages, then convolves."""
    y = x
    for number, (kind, stride) in enumerate(
        [("space", (1, space, space)), ("time", (time, 1, 1)), ("space", (1, 1, 1)), ("time", (1, 1, 1))]
    ):
        weight = weights[f"body.{3 * number}.weight"]
        y = functional.conv3d(y, weight, stride=stride, padding=(0, 1, 1) if kind == "space" else (1, 0, 0))
        y = normalised(weights, f"body.{3 * number + 1}", y)
        y = y.clamp(min=0) if number < 3 else y
    mean = functional.avg_pool3d(x, (time, space, space), ceil_mode=True, count_include_pad=False)
    short = functional.conv3d(mean, weights["shortcut.1.weight"])
    return functional.relu(y + normalised(weights, "shortcut.2", short))


@pytest.mark.parametrize(("time", "space", "size"), [(1, 2, (3, 6, 4)), (2, 2, (5, 5, 7)), (1, 1, (2, 3, 4))])
def test_a_block_of_small(time: int, space: int, size: tuple[int, int, int]) -> None:
    block = Block(3, 4, (time, space))
    weights = with_noise(block)
    clip = double(2, 3, *size)
    close(block(clip), block_loop(weights, clip, time, space))


def test_small_is_made_of_these() -> None:
    network = Small()
    weights = with_noise(network)
    widths = [16, 24, 48, 96, 192]
    assert [weights[f"blocks.{i}.body.0.weight"].shape[:2] for i in range(4)] == [
        *zip(widths[1:], widths, strict=False)
    ]
    assert weights["stem.0.weight"].shape == (16, 2, 1, 5, 5)
    clip = double(1, 3, 5, 32, 48)
    with torch.no_grad():
        x = functional.conv3d(MotionStem()(clip), weights["stem.0.weight"], stride=(1, 2, 2), padding=(0, 2, 2))
        x = normalised(weights, "stem.1", x).clamp(min=0)
        x = normalised(weights, "stem.4", functional.conv3d(x, weights["stem.3.weight"], padding=(1, 0, 0))).clamp(
            min=0
        )
        for number, (time, space) in enumerate([(1, 2), (2, 2), (2, 2), (1, 1)]):
            prefix = f"blocks.{number}."
            block = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            x = block_loop(block, x, time, space)
        close(network(clip), x)


def test_weights_keep_the_variance_of_the_gradient() -> None:
    for layer, fan_out in ((Space(2, 64, 5), 64 * 25), (Time(16, 64), 64 * 3)):
        assert layer.bias is None
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06)


def test_motion_channels_of_a_flash_are_limited_and_those_of_a_still_clip_are_zero() -> None:
    clip = torch.zeros(1, 3, 6, 16, 16)
    clip[:, :, 3, 4, 4], clip[:, :, 3, 8, 8] = 1, -1
    found = MotionStem()(clip)
    assert (found.amax(dim=(0, 2, 3, 4)).tolist(), found.amin(dim=(0, 2, 3, 4)).tolist()) == ([6, 6], [-6, -6])
    still = torch.rand(1, 3, 1, 6, 6).expand(-1, -1, 7, -1, -1)
    assert torch.equal(MotionStem()(still), torch.zeros(1, 2, 7, 6, 6))
    two = MotionStem()(torch.rand(1, 3, 2, 6, 6))[:, 0]
    assert torch.equal(two[:, 0], two[:, 1])
    assert two.any()


def test_a_clip_of_half_precision_has_motion_of_full_precision() -> None:
    clip = torch.rand(1, 3, 4, 6, 6).bfloat16()
    for found in (MotionStem()(clip), MotionStem()(clip.to(torch.float16))):
        assert found.dtype == torch.float32
    torch.testing.assert_close(MotionStem()(clip), MotionStem()(clip.float()))
    assert torch.equal(MotionStem()(clip[:, :, :1].float()), torch.zeros(1, 2, 1, 6, 6))


def test_the_motion_channels_of_small_against_a_loop() -> None:
    clip = torch.rand(2, 3, 5, 6, 7, dtype=torch.float64)
    luma = 0.299 * clip[:, 0] + 0.587 * clip[:, 1] + 0.114 * clip[:, 2]
    found = MotionStem()(clip)
    for number in range(2):
        steps = [luma[number, max(1, i)] - luma[number, max(1, i) - 1] for i in range(5)]
        from_mean = [luma[number, i] - luma[number].mean(dim=0) for i in range(5)]
        for channel, frames in enumerate((torch.stack(steps), torch.stack(from_mean))):
            expected = (frames / (frames.pow(2).mean() + 0.02**2).sqrt()).clamp(-6, 6)
            torch.testing.assert_close(found[number, channel], expected, rtol=0, atol=1e-12)


def test_the_convolutions_of_small_are_three_dimensional_ones() -> None:
    torch.manual_seed(0)
    clip = torch.rand(2, 4, 5, 9, 8, dtype=torch.float64)
    for layer in (Space(4, 6, 5, 2).double(), Time(4, 6, 2).double()):
        expected = functional.conv3d(clip, layer.weight, None, layer.stride, layer.padding)
        torch.testing.assert_close(layer(clip), expected, rtol=0, atol=1e-12)


def test_same_padding_puts_the_larger_half_behind() -> None:
    assert same_padding((7, 7, 7), (2, 2, 2)) == [2, 3, 2, 3, 2, 3]
    assert same_padding((1, 3, 3), (1, 2, 2)) == [0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("sizes", [(5, 8, 8), (4, 7, 8), (4, 8, 7)])
def test_odd_sizes_are_convolved_as_others_in_bfloat16(sizes: tuple[int, int, int]) -> None:
    unit = ConvUnit(3, 8, 7, 2).eval()
    clip = torch.randn(1, 3, *sizes)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = unit(clip)
    torch.testing.assert_close(found.float(), unit(clip), rtol=0.02, atol=0.02)
