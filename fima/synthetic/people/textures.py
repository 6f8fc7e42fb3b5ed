"""How a video looks: backgrounds with the spectrum of photographs, bodies and clothes, the camera and its recording."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fima.synthetic.people.draws import Draws

BACKGROUND_SIDE = 192
CLOTH_SIDE = 64
NUM_RECTANGLES = 5
SHAPE_SPREAD = 0.15
SKIN_TONE = (1.0, 0.78, 0.65)
SHIRT, SLEEVE, TROUSERS, SKIN, SHIN, SHOE = range(6)
"""Parts of a body that have one colour each."""
LENGTHS = {
    "torso": 0.29,
    "shoulders": 0.105,
    "upper_arm": 0.165,
    "forearm": 0.15,
    "hips": 0.05,
    "thigh": 0.245,
    "shin": 0.25,
    "head": 0.062,
}
"""Of a body, means in body heights; they differ between people."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Bodies, clothes and places of B people."""

    colours: Tensor
    """RGB of each part, from `SHIRT` to `SHOE`, (B, 6, 3), about 0..1."""
    cloth: Tensor
    """Texture that is added to all parts, (B, 3, 64, 64)."""
    girth: Tensor
    """Thickness of the limbs, relative, (B,)."""
    proportions: Tensor
    """Each of the `LENGTHS`, relative to the mean, (B, 8)."""
    height: Tensor
    """Of the body, in heights of the picture, (B,)."""
    place: Tensor
    """Of the hips in the picture, x and y in 0..1, (B, 2)."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Camera, light and compression of B videos."""

    background: Tensor
    """Twice as wide as what the camera sees, (B, 3, 192, 192)."""
    pan: Tensor
    """Way of the camera over the whole video, in widths of the picture, (B, 2)."""
    shake: Tensor
    """Standard deviation of its shake in each frame, (B,)."""
    light: Tensor
    """Shading of limbs across x and y, (B, 2)."""
    flicker: Tensor
    """Relative standard deviation of the brightness, (B,)."""
    noise: Tensor
    """Standard deviation of the sensor's noise, (B,)."""
    quantiser: Tensor
    """Step of the compression, (B,); 0 is none."""


def fractal(draws: Draws, side: int, low: float, high: float) -> Tensor:
    """Coloured noise whose amplitude falls with frequency as f^-a, as in photographs (Field, 1987): (B, 3, S, S).

    Each channel has mean 0 and deviation 1 before the mixing of colours; a is drawn from low..high, and S is even.
    """
    rows = torch.fft.fftfreq(side, device=draws.device)
    columns = torch.fft.rfftfreq(side, device=draws.device)
    frequency = torch.hypot(rows[:, None], columns[None]).clamp(min=1 / side)
    exponent = draws.uniform(low, high, 1, 1, 1)
    spectrum = torch.fft.rfft2(draws.normal(1, 3, side, side)) * frequency ** (-exponent)
    texture = torch.fft.irfft2(spectrum, s=(side, side))
    texture = texture - texture.mean(dim=(2, 3), keepdim=True)
    texture = texture / texture.std(dim=(2, 3), keepdim=True)
    # Between three channels of their own, which is colourful, and a grey sum of all three.
    own = 0.35 * torch.eye(3, device=draws.device)
    mixed = own + 0.65 / math.sqrt(3) * draws.uniform(0, 1, 1, 1).expand(-1, 3, 3)
    return torch.einsum("bij,bjhw->bihw", mixed, texture)


def draw_person(draws: Draws) -> Person:
    """Draw the people of a batch of videos."""
    height = torch.exp(draws.uniform(math.log(0.3), math.log(1.5)))
    # The legs of people who are higher than the picture lie below it.
    low = 0.62 + (height - 0.9) * 0.5 + draws.normal(0.08)
    across = draws.uniform(0.3, 0.7) + draws.normal(0.04)
    down = torch.where(height > 0.9, low, draws.uniform(0.45, 0.62)) + draws.normal(0.03)
    fine = draws.chance(0.6, 1, 1, 1) > 0
    strength = torch.where(fine, draws.uniform(0.01, 0.05, 1, 1, 1), draws.uniform(0.05, 0.25, 1, 1, 1))
    return Person(
        colours=_colours(draws),
        cloth=fractal(draws, CLOTH_SIDE, 0.5, 1.6) * strength,
        girth=draws.uniform(0.75, 1.35),
        proportions=draws.uniform(1 - SHAPE_SPREAD, 1 + SHAPE_SPREAD, len(LENGTHS)),
        height=height * draws.uniform(0.88, 1.12),
        place=torch.stack([across, down], dim=1),
    )


def _colours(draws: Draws) -> Tensor:
    """Colours (B, 6, 3) of skin, and of long or short clothes, many of them dark."""
    skin = draws.uniform(0.15, 0.9, 1) * (torch.tensor(SKIN_TONE, device=draws.device) + draws.normal(0.06, 3))
    skin = skin.clamp(0, 1)
    shirt = torch.where(draws.chance(0.35, 1) > 0, draws.uniform(0.03, 0.25, 1), draws.uniform(0.1, 0.95, 1))
    shirt = (shirt + draws.normal(0.2, 3) * draws.chance(0.6, 1)).clamp(0.02, 0.98)
    trousers = torch.where(draws.chance(0.5, 1) > 0, draws.uniform(0.03, 0.3, 1), draws.uniform(0.1, 0.9, 1))
    trousers = (trousers + draws.normal(0.12, 3)).clamp(0.02, 0.98)
    sleeve = torch.where(draws.chance(0.5, 1) > 0, skin, shirt)
    shin = torch.where(draws.chance(0.25, 1) > 0, skin, trousers)
    return torch.stack([shirt, sleeve, trousers, skin, shin, trousers * 0.5], dim=1)


def draw_recording(draws: Draws) -> Recording:
    """Draw backgrounds and cameras of a batch of videos: a quarter of the cameras move, three quarters compress."""
    moving = draws.chance(0.25)
    shaking = torch.where(moving > 0, draws.uniform(0, 0.02), draws.chance(0.2) * draws.uniform(0, 0.005))
    return Recording(
        background=_background(draws),
        pan=moving[:, None] * draws.uniform(-0.25, 0.25, 2),
        shake=shaking,
        light=draws.uniform(-0.3, 0.3, 2),
        flicker=draws.chance(0.3) * draws.uniform(0, 0.02),
        noise=0.035 * draws.uniform(0, 1).square(),
        quantiser=draws.chance(0.75) * draws.uniform(0.02, 0.25),
    )


def _background(draws: Draws) -> Tensor:
    """Textures with up to five rectangles (walls, floors, furniture), (B, 3, 192, 192); some are nearly plain."""
    one = (1, 1, 1)
    picture = fractal(draws, BACKGROUND_SIDE, 0.8, 1.7) * draws.uniform(0.05, 0.22, *one)
    picture = picture + draws.uniform(0.2, 0.8, *one) + draws.normal(0.12, 3, 1, 1)
    places = torch.linspace(0, 1, BACKGROUND_SIDE, device=draws.device)
    for _ in range(NUM_RECTANGLES):
        left, top = draws.uniform(-0.3, 0.9, *one), draws.uniform(-0.3, 0.9, *one)
        right, bottom = left + draws.uniform(0.08, 0.9, *one), top + draws.uniform(0.08, 0.9, *one)
        columns, rows = (left < places) & (places < right), (top < places) & (places < bottom)
        inside = (rows.transpose(2, 3) & columns) * draws.chance(0.6, *one)
        picture = picture + inside * (draws.normal(0.18, 3, 1, 1) + draws.normal(0.25, *one))
    mean = picture.mean(dim=(2, 3), keepdim=True)
    return torch.where(draws.chance(0.15, *one) > 0, mean + 0.1 * (picture - mean), picture)
