"""One video of the motion-texture benchmark: a textured object that moves over a textured background.

Lengths are shares of the frame's side and times shares of the video, so that a class looks the same at any size and
length. Everything that is not the motion (background, shape, colours, size) is drawn without knowledge of the class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Camera = Literal["static", "moving"]

CANVAS_SIDE = 1.7
MIN_RADIUS, MAX_RADIUS = 0.14, 0.21
OBJECT_TEXTURE_PX = 64
OBJECT_TEXTURE_RADII = 2.0
OUTLINE_SAMPLES = 720
MIN_COLOUR_DISTANCE = 0.45
MIN_LUMA_DISTANCE = 0.3
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
NOISE_SIGMA = 0.02


@dataclass(frozen=True, kw_only=True)
class MovingObject:
    """What moves: its outline, its texture and its size."""

    outline: FloatArray
    """(OUTLINE_SAMPLES,) distance of the outline from the centre by polar angle; it encloses the unit circle's area."""
    texture: FloatArray
    """(OBJECT_TEXTURE_PX, OBJECT_TEXTURE_PX, 3) colours in [0, 1], fixed to the object."""
    radius: float
    """Radius of the circle of the same area, as a share of the frame's side."""


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Where the object is in each frame; all arrays are (T,)."""

    x: FloatArray
    """Centre, as a share of the frame's width."""
    y: FloatArray
    """Centre, as a share of the frame's height, downwards."""
    angle: FloatArray
    """Orientation in radians."""
    scale: FloatArray
    """Size relative to the object's radius."""


def _bilinear(image: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Sample an image (H, W, C) at pixel positions x, y of any shape, clamped at its border."""
    height, width = image.shape[:2]
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    left, top = x.astype(np.int64), y.astype(np.int64)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    upper = image[top, left] * (1 - fx) + image[top, left + 1] * fx
    lower = image[top + 1, left] * (1 - fx) + image[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, dtype=np.float32)


def _value_noise(rng: np.random.Generator, side: int, cells: int) -> FloatArray:
    """Smooth noise in [0, 1], (side, side), with about `cells` blobs along a side."""
    grid = rng.random((cells + 2, cells + 2), dtype=np.float32)
    line = np.linspace(0, cells, side, endpoint=False, dtype=np.float32)
    eased = np.clip(np.floor(line) + (line % 1) ** 2 * (3 - 2 * (line % 1)), 0, cells + 1 - 0.001)
    # What `_bilinear` does at every pixel, along one axis and then along the other.
    whole = eased.astype(np.int64)
    part = eased - whole
    columns = grid[:, whole] * (1 - part) + grid[:, whole + 1] * part
    part = part[:, None]
    return np.asarray(columns[whole] * (1 - part) + columns[whole + 1] * part, dtype=np.float32)


def _clouds(rng: np.random.Generator, side: int) -> FloatArray:
    octaves = [(3, 1.0), (6, 0.7), (12, 0.5), (24, 0.4)]
    total = sum((weight * _value_noise(rng, side, cells) for cells, weight in octaves), np.zeros((), np.float32))
    return np.asarray(np.clip((total / 2.6 - 0.5) * 3 + 0.5, 0, 1), dtype=np.float32)


def _waves(rng: np.random.Generator, side: int, angle: float) -> FloatArray:
    """Slightly bent stripes across direction `angle`, -1..1, with soft edges."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    bend = rng.uniform(0, 1.5) * (_value_noise(rng, side, 4) - 0.5)
    phase = 2 * np.pi * (rng.uniform(3, 9) * (x * np.cos(angle) + y * np.sin(angle)) + rng.random()) + bend
    return np.asarray(np.clip(np.sin(phase) * rng.uniform(1, 5), -1, 1), dtype=np.float32)


def _stripes(rng: np.random.Generator, side: int) -> FloatArray:
    return 0.5 + 0.5 * _waves(rng, side, rng.uniform(0, np.pi))


def _checker(rng: np.random.Generator, side: int) -> FloatArray:
    angle = rng.uniform(0, np.pi)
    return 0.5 + 0.5 * _waves(rng, side, angle) * _waves(rng, side, angle + np.pi / 2)


def _rings(rng: np.random.Generator, side: int) -> FloatArray:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    distance = np.hypot(x - rng.random(), y - rng.random())
    return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(3, 8) * distance), dtype=np.float32)


_FIELDS: tuple[Callable[[np.random.Generator, int], FloatArray], ...] = (_clouds, _stripes, _checker, _rings)


def _random_colour(rng: np.random.Generator) -> FloatArray:
    """A colour (3,) of any hue, neither grey nor black."""
    hue, saturation, value = rng.random(), rng.uniform(0.35, 0.95), rng.uniform(0.25, 0.95)
    ramp = np.abs((hue * 6 - np.array([3, 2, 4])) % 6 - 3)
    return np.asarray(value * (1 - saturation * (1 - np.clip(ramp - 1, 0, 1))), dtype=np.float32)


def _two_colours(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Two colours (3,) of different brightness: a pattern of them is there in grey too."""
    first, second = _random_colour(rng), _random_colour(rng)
    while abs(float((first - second) @ LUMA_WEIGHTS)) < MIN_LUMA_DISTANCE:
        first, second = _random_colour(rng), _random_colour(rng)
    return first, second


def draw_texture(rng: np.random.Generator, side: int) -> FloatArray:
    """Draw a colourful texture of several scales, (side, side, 3) in [0, 1].

    Its pattern remains when its colours are taken away.
    """
    coarse = _FIELDS[rng.integers(len(_FIELDS))](rng, side)[..., None]
    fine = _FIELDS[rng.integers(len(_FIELDS))](rng, side)[..., None]
    grain = _value_noise(rng, side, max(2, side // 3))[..., None]
    first, second = _two_colours(rng)
    third = _random_colour(rng)
    image = first * (1 - coarse) + second * coarse
    image = image * (1 - 0.6 * fine) + third * 0.6 * fine + 0.25 * (grain - 0.5)
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)


def _outline(rng: np.random.Generator) -> FloatArray:
    """Distance from the centre by polar angle, of a shape that is not round, scaled to the unit circle's area."""
    angle = np.linspace(0, 2 * np.pi, OUTLINE_SAMPLES, endpoint=False)
    cosine, sine = np.maximum(np.abs(np.cos(angle)), 1e-6), np.maximum(np.abs(np.sin(angle)), 1e-6)
    kind = rng.integers(5)
    if kind == 0:  # ellipse
        radius = 1 / np.hypot(cosine, sine / rng.uniform(0.4, 0.65))
    elif kind == 1:  # regular polygon
        sector = 2 * np.pi / rng.integers(3, 6)
        radius = 1 / np.cos(angle % sector - sector / 2)
    elif kind == 2:  # star
        sector = 2 * np.pi / rng.integers(3, 7)
        radius = 1 - rng.uniform(0.4, 0.6) * np.abs(angle % sector / sector * 2 - 1)
    elif kind == 3:  # cross
        arm = rng.uniform(0.4, 0.56)
        radius = np.maximum(np.minimum(1 / cosine, arm / sine), np.minimum(arm / cosine, 1 / sine))
    else:  # blob
        waves = [rng.uniform(0.1, 0.25) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]
        radius = 1 + np.sum(waves, axis=0)
    return np.asarray(radius / np.sqrt(np.mean(radius**2)), dtype=np.float32)


def draw_object(rng: np.random.Generator, backgrounds: list[FloatArray]) -> MovingObject:
    """Draw an object whose mean colour differs from those of the backgrounds (side, side, 3) that it will be on."""
    outline, radius = _outline(rng), float(rng.uniform(MIN_RADIUS, MAX_RADIUS))
    means = [background.mean(axis=(0, 1)) for background in backgrounds]
    for _ in range(20):
        texture = draw_texture(rng, OBJECT_TEXTURE_PX)
        if all(np.linalg.norm(texture.mean(axis=(0, 1)) - mean) > MIN_COLOUR_DISTANCE for mean in means):
            break
    return MovingObject(outline=outline, texture=texture, radius=radius)


def _sign(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _oscillation(rng: np.random.Generator, time: FloatArray) -> tuple[FloatArray, FloatArray]:
    """One sine and its quarter-period shift, of a common random amplitude and period."""
    amplitude, period = rng.uniform(0.12, 0.18), rng.uniform(0.4, 0.65)
    phase = 2 * np.pi * (time / period + rng.random())
    return (amplitude * np.sin(phase)).astype(np.float32), (amplitude * np.cos(phase)).astype(np.float32)


def _path(motion: str, rng: np.random.Generator, time: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Displacement of the centre (T,), (T,) that the class `motion` stands for; the classes that stay in place: 0."""
    still = np.zeros_like(time)
    travel = np.float32(rng.uniform(0.4, 0.56)) * time
    match motion:
        case "HorizontalDrift":
            return _sign(rng) * travel, still
        case "Up":
            return still, -travel
        case "Down":
            return still, travel
        case "HorizontalOscillation":
            return _oscillation(rng, time)[0], still
        case "VerticalOscillation":
            return still, _oscillation(rng, time)[0]
        case "Circling":
            x, y = _oscillation(rng, time)
            return x, _sign(rng) * y
        case "Jitter":
            reach = rng.uniform(0.06, 0.1)
            x, y = rng.uniform(-reach, reach, size=(2, len(time))).astype(np.float32)
            return x, y
    return still, still


def draw_trajectory(motion: str, rng: np.random.Generator, *, num_frames: int, radius: float) -> Trajectory:
    """Draw a trajectory of one of `fima.synthetic.motion_textures.CLASSES` that keeps the object in the frame.

    A mirrored trajectory belongs to the same class: every class that has a sense to the left or right, or of turning,
    takes both senses with equal chance. The object's radius is a share of the frame's side.
    """
    time = np.linspace(0, 1, num_frames, dtype=np.float32)
    x, y = _path(motion, rng, time)
    angle = np.full_like(time, rng.uniform(0, 2 * np.pi))
    scale = np.ones_like(time)
    if motion == "Rotation":
        angle = angle + np.float32(_sign(rng) * 2 * np.pi * rng.uniform(0.5, 1.0)) * time
    elif motion in ("Growing", "Shrinking"):
        growth = np.float32(np.log(rng.uniform(1.8, 2.6)))
        scale = np.exp(growth * (time - 0.5) * (1 if motion == "Growing" else -1))
    margin = radius * float(scale.max())
    return Trajectory(x=_place(rng, x, margin), y=_place(rng, y, margin), angle=angle, scale=scale)


def _place(rng: np.random.Generator, path: FloatArray, margin: float) -> FloatArray:
    """Shift a displacement to a random place between `margin` and `1 - margin`."""
    return path + np.float32(rng.uniform(margin - path.min(), 1 - margin - path.max()))


def draw_camera(rng: np.random.Generator, *, num_frames: int) -> tuple[FloatArray, FloatArray]:
    """Draw how a moving camera displaces the background: a steady pan and a shake.

    Displacements in x and in y, (T,) each, are shares of the frame's side, between 0 and `CANVAS_SIDE` - 1.
    """
    direction, travel = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.45)
    shake = rng.normal(0, 0.012, size=(2, num_frames)).clip(-0.03, 0.03)
    centred = np.linspace(-0.5, 0.5, num_frames) * travel
    middle = (CANVAS_SIDE - 1) / 2
    x, y = middle + np.stack([centred * np.cos(direction), centred * np.sin(direction)]) + shake
    return x.astype(np.float32), y.astype(np.float32)


def render(
    thing: MovingObject,
    trajectory: Trajectory,
    background: FloatArray,
    *,
    size_px: int,
    camera: tuple[FloatArray, FloatArray] | None = None,
    noise: np.random.Generator | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Render the object on its trajectory over a background (side, side, 3), side at least `CANVAS_SIDE` · `size_px`.

    The camera displaces the background (see `draw_camera`); without one it stands still. `noise` is the source of
    sensor noise, if there is any. Returns RGB frames (T, H, W, 3), and where the object is in them (T, H, W).
    """
    row = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    dx = row[None, None, :] - trajectory.x[:, None, None]
    dy = row[None, :, None] - trajectory.y[:, None, None]
    radius = (thing.radius * trajectory.scale)[:, None, None]
    polar = np.arctan2(dy, dx) - trajectory.angle[:, None, None]
    distance = np.hypot(dx, dy)
    sample = (polar * (OUTLINE_SAMPLES / (2 * np.pi))).astype(np.int64) % OUTLINE_SAMPLES
    alpha = np.clip(0.5 + (thing.outline[sample] * radius - distance) * size_px, 0, 1)
    frames = _background_frames(background, camera, num_frames=len(trajectory.x), size_px=size_px)
    seen = alpha > 0
    texture_scale = (distance / radius * (OBJECT_TEXTURE_PX / 2 / OBJECT_TEXTURE_RADII))[seen]
    middle = (OBJECT_TEXTURE_PX - 1) / 2
    colours = _bilinear(
        thing.texture, middle + texture_scale * np.cos(polar[seen]), middle + texture_scale * np.sin(polar[seen])
    )
    weight = alpha[seen][:, None]
    frames[seen] = frames[seen] * (1 - weight) + colours * weight
    if noise is not None:
        frames += NOISE_SIGMA * noise.standard_normal(frames.shape, dtype=np.float32)
    pixels = np.clip(frames * 255 + 0.5, 0, 255).astype(np.uint8)
    return pixels, alpha > 0.5


def _background_frames(
    background: FloatArray, camera: tuple[FloatArray, FloatArray] | None, *, num_frames: int, size_px: int
) -> FloatArray:
    """Cut the frames (T, size_px, size_px, 3) out of the background."""
    if camera is None:
        start = (len(background) - size_px) // 2
        still = background[start : start + size_px, start : start + size_px]
        return np.repeat(still[None], num_frames, axis=0)
    frames = np.empty((num_frames, size_px, size_px, 3), dtype=np.float32)
    for frame, x, y in zip(frames, camera[0] * size_px, camera[1] * size_px, strict=True):
        left, top = int(x), int(y)
        fx, fy = np.float32(x - left), np.float32(y - top)
        rows = background[top : top + size_px + 1, left : left + size_px + 1]
        rows = rows[:, :-1] * (1 - fx) + rows[:, 1:] * fx
        frame[:] = rows[:-1] * (1 - fy) + rows[1:] * fy
    return frames
