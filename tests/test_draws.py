"""The random draws of the augmentation have the distributions of torchvision's transforms, and the published ones.

Seeds are fixed, so each test always gives the same figure; the bounds are those that one sample in a thousand of the
right distribution would miss.
"""

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import (
    ColorJitter,
    Compose,
    GaussianBlur,
    Normalize,
    RandomApply,
    RandomGrayscale,
    RandomResizedCrop,
)

from fima.config import DataConfig
from fima.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    JITTER,
    MEAN,
    ORDER,
    SATURATION,
    SIGMA,
    STD,
    apply_colour,
    blur_kernel_size,
    draw_colour,
)
from fima.data.views import Crop, random_crop

Values = NDArray[np.float64]

NUM_DRAWS = 20_000
NUM_THEIRS = 6_000
KOLMOGOROV_LIMIT = 1.95
"""What sqrt(n) times the largest distance of two distribution functions exceeds once in a thousand times."""
NORMAL_LIMIT = 3.09
"""What a standard normal number exceeds once in a thousand times."""
JITTER_STRENGTHS = (0.4, 0.4, 0.4, 0.1)
FACTORS = {BRIGHTNESS: (0.6, 1.4), CONTRAST: (0.6, 1.4), SATURATION: (0.6, 1.4), HUE: (-0.1, 0.1)}
SIGMA_RANGE = (0.1, 2.0)
FRAMES = [(340, 256), (64, 64), (100, 320)]
CROP_FIGURES = ("area", "aspect", "place x", "place y")


def too_far(first: Values, second: Values) -> bool:
    """Two-sample Kolmogorov-Smirnov test."""
    points = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (first, second)]
    scale = np.sqrt(len(first) * len(second) / (len(first) + len(second)))
    return bool(np.abs(shares[0] - shares[1]).max() * scale > KOLMOGOROV_LIMIT)


def not_uniform(values: Values, low: float, high: float) -> bool:
    """Kolmogorov-Smirnov test against the uniform distribution on [low, high]."""
    share = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    distance = max((steps[1:] - share).max(), (share - steps[:-1]).max())
    inside = values.min() >= low and values.max() <= high
    return bool(distance * np.sqrt(len(values)) > KOLMOGOROV_LIMIT or not inside)


def not_as_often(counts: Values, expected: Values) -> bool:
    """Chi-squared test; its limit by the approximation of Wilson and Hilferty."""
    freedom = len(counts) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + NORMAL_LIMIT * np.sqrt(2 / (9 * freedom))) ** 3
    return bool(((counts - expected) ** 2 / expected).sum() > limit)


def counts_of(values: NDArray[np.float64 | np.int64 | np.bool_], num_values: int) -> Values:
    return np.bincount(values.astype(int), minlength=num_values).astype(float)


@pytest.fixture(scope="module")
def draws() -> Values:
    """Ours, a row a clip."""
    return draw_colour(np.random.default_rng(1), NUM_DRAWS, DataConfig()).double().numpy()


@pytest.fixture(scope="module")
def theirs() -> Values:
    """Order and factors of torchvision's ColorJitter, in the columns in which ours stand."""
    torch.manual_seed(0)
    transform = ColorJitter(*JITTER_STRENGTHS)
    ranges = [transform.brightness, transform.contrast, transform.saturation, transform.hue]
    rows = [ColorJitter.get_params(*ranges) for _ in range(NUM_THEIRS)]
    columns = np.zeros((NUM_THEIRS, HUE + 1))
    for row, (order, *factors) in zip(columns, rows, strict=True):
        row[ORDER], row[BRIGHTNESS:] = order.numpy(), factors
    return columns


def orders_of(rows: Values) -> Values:
    """How often each of the 24 orders comes."""
    numbers = {order: number for number, order in enumerate(permutations(range(4)))}
    return counts_of(np.array([numbers[tuple(int(step) for step in row)] for row in rows[:, ORDER]]), 24)


def test_grayscale_jitter_and_blur_come_independently_with_the_published_probabilities(draws: Values) -> None:
    chosen = np.stack([draws[:, GRAYSCALE] > 0, draws[:, JITTER] > 0, draws[:, SIGMA] > 0])
    published = np.array([0.2, 0.8, 0.5])
    kinds = np.arange(8)[:, None] >> np.arange(3) & 1
    expected = NUM_DRAWS * np.where(kinds, published, 1 - published).prod(axis=1)
    counts = counts_of((chosen * [[1], [2], [4]]).sum(axis=0), 8)
    assert not not_as_often(counts, expected)
    slightly_off = NUM_DRAWS * np.where(kinds, published + 0.02, 0.98 - published).prod(axis=1)
    assert not_as_often(counts, slightly_off)


def test_probabilities_are_those_of_torchvisions_random_transforms(draws: Values) -> None:
    torch.manual_seed(0)
    image = torch.rand(3, 2, 2)
    for column, transform in (
        (GRAYSCALE, RandomGrayscale(0.2)),
        (JITTER, RandomApply([Normalize([2.0], [1.0])], 0.8)),
        (SIGMA, RandomApply([Normalize([2.0], [1.0])], 0.5)),
    ):
        share = np.mean([not torch.equal(transform(image), image) for _ in range(NUM_THEIRS)])
        expected = np.array([1 - share, share]) * NUM_DRAWS
        both = expected * (1 + NUM_DRAWS / NUM_THEIRS)  # what theirs varies by is added
        counts = counts_of(draws[:, column] > 0, 2)
        assert ((counts - expected) ** 2 / both).sum() < NORMAL_LIMIT**2


@pytest.mark.parametrize("column", FACTORS)
def test_factors_are_uniform_and_torchvisions(column: int, draws: Values, theirs: Values) -> None:
    low, high = FACTORS[column]
    assert not not_uniform(draws[:, column], low, high)
    assert not too_far(draws[:, column], theirs[:, column])
    assert not_uniform(draws[:, column], low - 0.05 * (high - low), high)
    assert too_far(draws[:, column] + 0.05 * (high - low), theirs[:, column])


def test_every_order_of_the_jitter_comes_as_often_as_in_torchvision(draws: Values, theirs: Values) -> None:
    for rows in (draws, theirs):
        assert not not_as_often(orders_of(rows), np.full(24, len(rows) / 24))
    always_first = draws.copy()
    always_first[: NUM_DRAWS // 20, ORDER] = range(4)
    assert not_as_often(orders_of(always_first), np.full(24, NUM_DRAWS / 24))


def test_the_sigma_of_a_blur_is_uniform_and_torchvisions(draws: Values) -> None:
    torch.manual_seed(0)
    sigma = draws[:, SIGMA][draws[:, SIGMA] > 0]
    assert not not_uniform(sigma, *SIGMA_RANGE)
    assert not too_far(sigma, np.array([GaussianBlur.get_params(*SIGMA_RANGE) for _ in range(NUM_THEIRS)]))


def test_no_draw_says_anything_of_another_or_of_the_next_clip(draws: Values) -> None:
    columns = [GRAYSCALE, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, SIGMA]
    here, after = draws[:-1, columns], draws[1:, columns]
    correlation = np.corrcoef(np.concatenate([here, after], axis=1), rowvar=False)
    others = correlation[np.triu_indices(len(correlation), k=1)]
    # The largest of so many numbers: the limit of one in a thousand, divided among them.
    assert np.abs(others).max() * np.sqrt(len(here)) < 4.9


def test_whole_clips_come_out_as_torchvisions_would() -> None:
    """Grayscale, jitter, blur and normalisation together: the values of a few pixels over many draws."""
    size, count = 24, 1_000
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(5))
    transform = Compose(
        [
            RandomGrayscale(0.2),
            RandomApply([ColorJitter(*JITTER_STRENGTHS)], 0.8),
            RandomApply([GaussianBlur(blur_kernel_size(size), SIGMA_RANGE)], 0.5),
            Normalize(MEAN, STD),
        ]
    )
    torch.manual_seed(0)
    expected = torch.stack([transform(image) for _ in range(count)]).double().numpy()
    draws = draw_colour(np.random.default_rng(1), count, DataConfig())
    clips = image[:, None].expand(count, -1, 1, -1, -1)
    coloured = apply_colour(clips, draws)[:, :, 0].double().numpy()
    for channel, row, column in ((0, 0, 0), (0, 11, 7), (1, 23, 12), (2, 5, 20)):
        # A clip that nothing is done to always has the same value, but for its last digits.
        ours, others = (values[:, channel, row, column].round(4) for values in (coloured, expected))
        assert not too_far(ours, others)
        assert too_far(ours * 1.2, others)


def test_a_clips_frames_share_their_draws_and_clips_do_not() -> None:
    frame = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    coloured = apply_colour(
        frame.expand(8, 3, 10, 16, 16), draw_colour(np.random.default_rng(0), 8, DataConfig(jitter=1.0, grayscale=0.0))
    )
    assert torch.equal(coloured, coloured[:, :, :1].expand_as(coloured))
    assert len({float(clip.sum()) for clip in coloured}) == 8


def crop_figures(width: int, height: int, rows: Values) -> dict[str, Values]:
    """Area, aspect, and where in the free room the crop lies; rows are left, top, width, height."""
    left, top, crop_width, crop_height = rows.T
    free_x, free_y = width - crop_width + 1, height - crop_height + 1
    # Integer places in rooms of a few pixels: uniform on each pixel, they are uniform in the room.
    jitter = np.random.default_rng(9).random((2, len(rows)))
    figures = (
        crop_width * crop_height / (width * height),
        np.log(crop_width / crop_height),
        (left + jitter[0]) / free_x,
        (top + jitter[1]) / free_y,
    )
    return dict(zip(CROP_FIGURES, figures, strict=True))


def row_of(crop: Crop) -> tuple[int, int, int, int]:
    return crop.left, crop.top, crop.width, crop.height


@pytest.mark.parametrize(("width", "height"), FRAMES)
def test_boxes_are_those_of_torchvisions_random_resized_crop(width: int, height: int) -> None:
    generator = np.random.default_rng(0)
    crops = [random_crop(width, height, DataConfig(min_area=0.2, flip=0.5), generator) for _ in range(2 * NUM_THEIRS)]
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(NUM_THEIRS)])
    ours = crop_figures(width, height, np.array([row_of(crop) for crop in crops], dtype=float))
    others = crop_figures(width, height, theirs[:, [1, 0, 3, 2]].astype(float))
    for name in CROP_FIGURES:
        assert not too_far(ours[name], others[name]), name
    assert too_far(ours["area"] * 1.05, others["area"])
    assert not not_uniform(ours["place x"], 0, 1)
    assert not not_as_often(counts_of(np.array([crop.flipped for crop in crops]), 2), np.full(2, len(crops) / 2))
