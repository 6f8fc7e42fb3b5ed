"""Render videos of people: limbs as shaded, textured capsules over a background, then camera noise and compression."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fima.synthetic.people import textures
from fima.synthetic.people.draws import Draws
from fima.synthetic.people.programs import Program, draw_program
from fima.synthetic.people.skeleton import Capsules, capsules

NUM_FRAMES = 32
NUM_BLOBS = 2
BATCH = 16
"""Videos that are drawn and rendered together; a video is a function of the seed, its number and the device's kind."""
RENDERING = 0
"""Second number of the key of these draws; training has another."""
CLOTH_REPEATS = 6
"""Repeats of the cloth in the height of the picture."""
BLOCK = 8
DEAD_ZONE = 0.25
"""Coefficients below three quarters of a step become 0."""
FIRST_FRAME = 0.5
"""The step of the first frame, relative to that of the others."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is to be seen in B videos."""

    program: Program
    person: textures.Person
    blobs: Capsules
    """What wanders behind the person: N = 2, in some of the videos."""
    recording: textures.Recording
    times: Tensor
    """Of the frames, in 0..1, (B, T)."""


def render_people(seed: int, number: int, *, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Render 16 videos of 32 frames: numbers 16 * `number` and the next ones of a seed; the side S is a multiple of 8.

    Returns the frames, uint8 (16, 32, 3, S, S), and the motion parameters, float32 (16, 88) in the order of
    `programs.PARAMETERS`.
    """
    draws = Draws.of(seed, RENDERING, number, num_videos=BATCH, device=device)
    scene = draw_scene(draws)
    return render(scene, side, draws), scene.program.parameters()


def draw_scene(draws: Draws, *, num_frames: int = NUM_FRAMES) -> Scene:
    """Draw all of a batch of videos but the noise of single frames, which are evenly spread over its time 0..1."""
    times = ((torch.arange(num_frames, device=draws.device) + 0.5) / num_frames).expand(draws.num_videos, -1)
    return Scene(
        program=draw_program(draws),
        person=textures.draw_person(draws),
        blobs=_draw_blobs(draws, times),
        recording=textures.draw_recording(draws),
        times=times,
    )


def _draw_blobs(draws: Draws, times: Tensor) -> Capsules:
    """Draw what wanders and swings behind the people of a batch of videos: in a fifth of them."""
    present = draws.chance(0.2, 1) > 0
    place = draws.uniform(0, 1, NUM_BLOBS, 2)
    drift, amplitude = draws.uniform(-0.6, 0.6, NUM_BLOBS, 2), draws.uniform(0, 0.1, NUM_BLOBS, 2)
    cycles, phase = draws.uniform(1, 5, NUM_BLOBS, 1), draws.uniform(0, 6, NUM_BLOBS, 1)
    extent = draws.uniform(-0.06, 0.06, NUM_BLOBS, 2)
    radius = torch.where(present, draws.uniform(0.02, 0.09, NUM_BLOBS), -1.0)
    colours = draws.uniform(0, 1, NUM_BLOBS, 3)
    time, num_frames = times[:, :, None, None], times.shape[1]
    swing = torch.sin(2 * math.pi * cycles[:, None] * time + phase[:, None])
    start = place[:, None] + drift[:, None] * (time - 0.5) + amplitude[:, None] * swing
    return Capsules(
        start=start,
        end=start + extent[:, None],
        radius=radius[:, None].expand(-1, num_frames, -1),
        colours=colours[:, None].expand(-1, num_frames, -1, -1),
    )


def render(scene: Scene, side: int, draws: Draws) -> Tensor:
    """Render a scene as videos, uint8 (B, T, 3, S, S).

    S is a multiple of 8; the draws are those of the shake, flicker and noise of single frames.
    """
    assert side % BLOCK == 0, "compressed in whole blocks"
    recording, times = scene.recording, scene.times
    num_frames = times.shape[1]
    camera = recording.pan[:, None] * (times[..., None] - 0.5)
    camera = camera + recording.shake[:, None, None] * draws.normal(1, num_frames, 2)
    body = capsules(scene.program.values(times), scene.person, camera)
    behind = vars(scene.blobs)
    limbs = Capsules(**{name: torch.cat([each, getattr(body, name)], dim=2) for name, each in behind.items()})
    image = _paint(limbs, scene, _background(recording, camera, side))
    flicker = recording.flicker.view(-1, 1, 1, 1, 1) * draws.normal(1, 1, num_frames, 1, 1)
    noise = recording.noise.view(-1, 1, 1, 1, 1) * draws.normal(1, *image.shape[1:])
    video = compress((image * (1 + flicker) + noise).clamp(0, 1), recording.quantiser)
    return (video.clamp(0, 1) * 255).round().to(torch.uint8).transpose(1, 2)


def _background(recording: textures.Recording, camera: Tensor, side: int) -> Tensor:
    """What the camera sees of the background in each frame, (B, 3, T, S, S)."""
    # From the middle half of the texture, in the coordinates of `grid_sample`, -1..1.
    places = (torch.arange(side, device=camera.device) + 0.5) / side - 0.5
    x = places - camera[..., :1]
    y = places - camera[..., 1:]
    grid = torch.stack([x[:, :, None, :].expand(-1, -1, side, -1), y[:, :, :, None].expand(-1, -1, -1, side)], dim=-1)
    return _sampled(recording.background, grid)


def _sampled(texture: Tensor, grid: Tensor) -> Tensor:
    """Values (B, 3, T, S, S) of textures (B, 3, N, N) at places (B, T, S, S, 2) in -1..1, reflected at the borders."""
    rows = grid.flatten(1, 2)
    sampled = functional.grid_sample(texture, rows, align_corners=False, padding_mode="reflection")
    return sampled.reshape(*texture.shape[:2], *grid.shape[1:4])


def _paint(limbs: Capsules, scene: Scene, image: Tensor) -> Tensor:
    """Paint limbs over images (B, 3, T, S, S), the first ones first, each shaded and with the cloth's texture."""
    light, side = scene.recording.light[:, :, None, None, None], image.shape[-1]
    image = image.clone()
    covered, along_cloth, across_cloth = torch.zeros(3, *image[:, 0].shape, device=image.device).unbind()
    places = (torch.arange(side, device=image.device) + 0.5) / side
    for number in range(limbs.radius.shape[2]):
        for videos, rows, columns in _regions(limbs, number, side):
            start, end = limbs.start[videos, :, number], limbs.end[videos, :, number]
            radius = limbs.radius[videos, :, number, None, None]
            dx, dy = (end - start)[..., None, None].unbind(dim=2)
            squared = (dx.square() + dy.square()).clamp(min=1e-8)
            # Of each pixel, (B, T, H, W): the way to it from the limb's start, then from the nearest point of its axis.
            x = places[columns] - start[..., 0, None, None]
            y = places[rows, None] - start[..., 1, None, None]
            along = ((x * dx + y * dy) / squared).clamp(0, 1)
            x, y = (x - along * dx), (y - along * dy)
            inside = ((radius - (x.square() + y.square()).sqrt()) * side + 0.5).clamp(0, 1)
            thickness = radius.abs().clamp(min=1e-3)
            x, y = x / thickness, y / thickness
            shade = 1 + light[videos, 0] * x + 0.5 * light[videos, 1] * y
            colour = limbs.colours[videos, :, number].transpose(1, 2)[..., None, None] * shade[:, None]
            part = image[videos, :, :, rows, columns]
            part += inside[:, None] * (colour - part)
            # Each limb shows a place of its own of the cloth.
            here, on = (videos, slice(None), rows, columns), inside > 0.5
            along, across = along * squared.sqrt(), (dx * y - dy * x) * squared.rsqrt()
            along_cloth[here] = torch.where(on, along * CLOTH_REPEATS + 0.37 * number, along_cloth[here])
            across_cloth[here] = torch.where(on, 0.25 * across + 0.61 * number, across_cloth[here])
            covered[here] = torch.maximum(covered[here] * (1 - inside), inside)
    grid = torch.stack([along_cloth, across_cloth], dim=-1).remainder(1) * 2 - 1
    return image + covered[:, None] * _sampled(scene.person.cloth, grid)


def _regions(limbs: Capsules, number: int, side: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield regions that hold all that a limb covers: videos of the batch, rows and columns of their pictures.

    On a CPU, the surroundings of the limb in one video at a time: few of the pixels, and they stay in its cache. A GPU
    would wait for each of their borders; there, the only region is everything.
    """
    if limbs.radius.device.type != "cpu":
        yield slice(None), slice(None), slice(None)
        return
    reach = limbs.radius[:, :, number, None] + 1 / side
    start, end = limbs.start[:, :, number], limbs.end[:, :, number]
    low, high = torch.minimum(start, end) - reach, torch.maximum(start, end) + reach
    first = (low.amin(dim=1) * side).floor().clamp(0, side).int().tolist()
    last = (high.amax(dim=1) * side).ceil().clamp(0, side).int().tolist()
    for video, ((left, top), (right, bottom)) in enumerate(zip(first, last, strict=True)):
        # What is not there has a negative radius.
        if left < right and top < bottom:
            yield slice(video, video + 1), slice(top, bottom), slice(left, right)


def compress(video: Tensor, quantiser: Tensor) -> Tensor:
    """Return videos (B, C, T, S, S) as a codec without motion compensation would store them.

    Each frame is stored by what the last one lacks: the difference to the last decoded frame is quantised in blocks of
    8 x 8 by its cosine transform, high frequencies more coarsely, with a dead zone. So regions that hardly change stay
    as they are, as in real recordings. Values are about 0..1, S a multiple of 8; the quantiser (B,) is the step of the
    lowest frequency, times 0.4, of which 0 hardly changes anything.
    """
    num_videos, side = len(video), video.shape[-1]
    basis = _cosines(video.device)
    frequency = torch.arange(BLOCK, device=video.device)
    weight = 0.4 + 0.1 * (frequency[:, None] + frequency)
    steps = quantiser.view(-1, 1, 1, 1, 1, 1) * weight[:, None, :] + 1e-4  # (B, 1, 1, 8, 1, 8)
    decoded = torch.zeros_like(video[:, :, 0])
    frames = []
    for place, frame in enumerate(video.unbind(dim=2)):
        step = steps if place else FIRST_FRAME * steps
        blocks = (frame - decoded).reshape(num_videos, -1, side // BLOCK, BLOCK, side // BLOCK, BLOCK)
        coefficients = torch.einsum("ui,bcyixj,vj->bcyuxv", basis, blocks, basis) / step
        kept = torch.trunc(coefficients + DEAD_ZONE * coefficients.sign()) * step
        change = torch.einsum("ui,bcyuxv,vj->bcyixj", basis, kept, basis)
        decoded = decoded + change.flatten(4, 5).flatten(2, 3)
        frames.append(decoded)
    return torch.stack(frames, dim=2)


def _cosines(device: torch.device) -> Tensor:
    """Orthonormal cosine transform, (frequency, pixel)."""
    pixel = torch.arange(BLOCK, device=device)
    basis = 0.5 * torch.cos(math.pi * (2 * pixel + 1) * pixel[:, None] / (2 * BLOCK))
    basis[0] *= math.sqrt(0.5)
    return basis
