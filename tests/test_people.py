"""Rendered people: reproducible, and their parameters move what they are named after."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fima.synthetic.people import figures
from fima.synthetic.people.bank import motion_boxes, render_bank, square_around
from fima.synthetic.people.draws import Draws
from fima.synthetic.people.figures import BATCH, NUM_FRAMES, Scene, compress, draw_scene, render, render_people
from fima.synthetic.people.programs import PARAMETERS, Dof, Program, draw_program
from fima.synthetic.people.textures import fractal

CPU = torch.device("cpu")
SIDE = 32
HIPS, SHOULDERS, MIDDLE = 0.55, 0.35, 0.5
"""Where a person of 0.8 picture heights has them, whose hips are at (0.5, 0.55)."""


def draws(*key: int, num_videos: int = 1) -> Draws:
    return Draws.of(*key, num_videos=num_videos, device=CPU)


def still_program(num_videos: int = 1) -> Program:
    """People who do nothing, and whose gate is open from the first quarter to the end."""
    zeros = torch.zeros(num_videos, len(Dof))
    first = torch.zeros(num_videos)
    return Program(
        base=zeros, held=zeros, swing=zeros, cycles=zeros + 1, phase=zeros, drift=zeros, sway=zeros,
        start=first + 0.25, stop=first + 2, rise=first + 0.1, through=first,
    )  # fmt: skip


def scene_of(program: Program) -> Scene:
    """One person in the middle of a picture without noise, camera motion, compression, or anything else."""
    scene = draw_scene(draws(3), num_frames=8)
    nothing = torch.zeros(1)
    recording = replace(
        scene.recording,
        background=torch.full_like(scene.recording.background, 0.9), pan=torch.zeros(1, 2),
        shake=nothing, flicker=nothing, noise=nothing, quantiser=nothing,
    )  # fmt: skip
    person = replace(
        scene.person,
        colours=torch.zeros(1, 6, 3), cloth=torch.zeros_like(scene.person.cloth),
        girth=torch.ones(1), proportions=torch.ones(1, 8),
        height=torch.tensor([0.8]), place=torch.tensor([[MIDDLE, HIPS]]),
    )  # fmt: skip
    blobs = replace(scene.blobs, radius=torch.full((1, 8, 2), -1.0))
    return replace(scene, program=program, person=person, blobs=blobs, recording=recording)


def change_of(**values: float) -> Tensor:
    """How much each pixel (S, S) differs between the rest and the pose that is held."""
    held = torch.zeros(1, len(Dof))
    for name, value in values.items():
        held[0, Dof[name]] = value
    video = render(scene_of(replace(still_program(), held=held)), 64, draws(9))
    return (video[0, -1].float() - video[0, 0].float()).abs().mean(dim=0)


def test_a_video_is_a_function_of_seed_and_number() -> None:
    frames, parameters = render_people(0, 1, side=SIDE, device=CPU)
    again = render_people(0, 1, side=SIDE, device=CPU)
    assert frames.shape == (BATCH, NUM_FRAMES, 3, SIDE, SIDE)
    assert frames.dtype == torch.uint8
    assert parameters.shape == (BATCH, len(PARAMETERS))
    assert torch.equal(frames, again[0])
    assert torch.equal(parameters, again[1])
    for key in ((1, 1), (0, 2)):
        other = draw_program(draws(key[0], 0, key[1], num_videos=BATCH)).parameters()
        assert not torch.equal(other, parameters)
    assert frames.float().std(dim=(1, 2, 3, 4)).min() > 2, "no picture is empty"


def test_painting_the_surroundings_of_a_limb_alone_changes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    in_surroundings, _ = render_people(2, 0, side=SIDE, device=CPU)
    calls: list[int] = []

    def everywhere(limbs: object, number: int, side: int) -> list[tuple[slice, slice, slice]]:
        calls.append(number)
        return [(slice(None), slice(None), slice(None))]

    monkeypatch.setattr(figures, "_regions", everywhere)
    everything, _ = render_people(2, 0, side=SIDE, device=CPU)
    assert calls
    torch.testing.assert_close(in_surroundings, everything, rtol=0, atol=0)


def test_a_bank_begins_like_a_larger_one() -> None:
    few, many = (render_bank(num, seed=4, side=16, device=CPU) for num in (5, BATCH + 2))
    assert len(few) == 5
    assert torch.equal(few.frames, many.frames[:5])
    assert torch.equal(few.squares, many.squares[:5])
    assert many.targets.shape == (BATCH + 2, len(PARAMETERS))


def test_parameters_are_named_in_their_order() -> None:
    assert len(set(PARAMETERS)) == len(PARAMETERS) == 88
    program = draw_program(draws(0, num_videos=64))
    parameters = dict(zip(PARAMETERS, program.parameters().unbind(dim=1), strict=True))
    assert torch.equal(parameters["lean.held"], program.held[:, Dof.LEAN])
    assert torch.equal(parameters["x.drift"], program.drift[:, Dof.X])
    speed = program.swing[:, Dof.ELBOW_L] * program.cycles[:, Dof.ELBOW_L] / 4
    torch.testing.assert_close(parameters["elbow_l.speed"], speed)


def test_a_program_is_its_formula() -> None:
    program = draw_program(draws(5, num_videos=8))
    times = torch.tensor([[0.0, 0.3, 0.5, 0.95]]).expand(8, -1)
    values = program.values(times)
    for video in range(8):
        for place, time in enumerate(times[video].tolist()):
            opened, closed = (
                min(1.0, max(0.0, (time - moment[video].item()) / program.rise[video].item()))
                for moment in (program.start, program.stop)
            )
            gate = opened**2 * (3 - 2 * opened) * (1 - closed**2 * (3 - 2 * closed))
            swinging = max(gate, program.through[video].item())
            for dof in (Dof.RAISE_R, Dof.HIP_L, Dof.X):
                base, held, swing, cycles, phase, drift, sway = (
                    getattr(program, name)[video, dof].item()
                    for name in ("base", "held", "swing", "cycles", "phase", "drift", "sway")
                )
                expected = base + held * gate + swing * swinging * math.sin(2 * math.pi * cycles * time + phase)
                expected += drift * (time - 0.5) + sway * math.sin(2 * math.pi * 1.3 * time + 3 * phase)
                assert values[video, place, dof].item() == pytest.approx(expected, abs=1e-4)


def test_nobody_moves_without_a_motion() -> None:
    assert change_of().max() == 0


@pytest.mark.parametrize("name", ["RAISE", "HIP", "SPREAD"])
@pytest.mark.parametrize("side", ["R", "L"])
def test_a_limb_moves_on_its_own_side(name: str, side: str) -> None:
    """A person who faces the camera has the right side on the left of the picture."""
    change = change_of(**{f"{name}_{side}": 1.2})
    half = change.shape[1] // 2
    left, right = change[:, :half].sum(), change[:, half:].sum()
    own, other = (left, right) if side == "R" else (right, left)
    assert own > 1000
    assert own > 9 * other


def test_arms_move_above_the_hips_and_legs_below_them() -> None:
    rows = (torch.arange(64) + 0.5) / 64
    arms, legs, head = change_of(RAISE_R=1.2, ELBOW_L=1.5), change_of(KNEE_L=1.5, HIP_R=1.0), change_of(TILT=0.7)
    hands = HIPS + 0.11  # where they hang
    assert arms[rows < hands].sum() > 0.99 * arms.sum() > 0
    assert legs[rows > HIPS - 0.05].sum() > 0.99 * legs.sum() > 0
    assert head[rows < SHOULDERS + 0.05].sum() > 0.99 * head.sum() > 0


@pytest.mark.parametrize(("name", "amount", "axis", "sign"), [("X", 0.2, 1, 1), ("Y", 0.1, 0, -1)])
def test_the_person_moves_across_and_up(name: str, amount: float, axis: int, sign: int) -> None:
    held = torch.zeros(1, len(Dof))
    held[0, Dof[name]] = amount
    video = render(scene_of(replace(still_program(), held=held)), 64, draws(9))[0].float().mean(dim=1)
    dark = (video < 160).float()
    places = torch.arange(64.0)
    weights = [frame.sum(dim=1 - axis) for frame in (dark[0], dark[-1])]
    before, after = ((weight * places).sum() / weight.sum() for weight in weights)
    assert (after - before).item() == pytest.approx(sign * amount * 0.8 * 64, abs=1)


def test_a_texture_has_the_spectrum_that_was_asked_for() -> None:
    texture = fractal(draws(1, num_videos=4), 128, 1.2, 1.2)
    amplitude = torch.fft.rfft2(texture).abs().square().mean(dim=(0, 1)).sqrt()
    frequency = torch.hypot(torch.fft.fftfreq(128)[:, None], torch.fft.rfftfreq(128)[None])
    octaves = [(2 ** -(n + 1), 2**-n) for n in range(2, 6)]
    levels = [amplitude[(low <= frequency) & (frequency < high)].square().mean().sqrt().log2() for low, high in octaves]
    slopes = torch.stack(levels).diff()
    assert slopes.mean().item() == pytest.approx(1.2, abs=0.15)
    torch.testing.assert_close(texture.mean(dim=(2, 3)), torch.zeros(4, 3), atol=1e-4, rtol=0)


def test_compression_loses_more_with_a_larger_step_and_keeps_what_is_still() -> None:
    video = torch.rand(1, 3, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    video[:, :, 3:] = video[:, :, 2:3]
    errors = [(compress(video, torch.tensor([step])) - video).abs().mean().item() for step in (0.0, 0.1, 0.3)]
    assert errors[0] < 1e-3 < errors[1] < errors[2] < 0.3
    decoded = compress(video, torch.tensor([0.3]))
    assert torch.equal(decoded[:, :, 4], decoded[:, :, 5])


def test_the_box_holds_what_moves_and_nothing_else() -> None:
    frames = torch.full((2, 8, 3, 84, 84), 100, dtype=torch.uint8)
    for place in range(8):
        frames[0, place, :, 20 + place : 36 + place, 50:62] = 200
    boxes = motion_boxes(frames)
    left, top, right, bottom = (boxes[0] * 84).tolist()
    assert 44 <= left <= 51
    assert 61 <= right <= 68
    assert 14 <= top <= 24
    assert 38 <= bottom <= 49
    assert boxes[1].tolist() == [0, 0, 1, 1], "nothing moves"


def test_squares_stay_within_the_picture() -> None:
    boxes = torch.tensor([[0.4, 0.4, 0.6, 0.8], [0.9, 0.0, 1.0, 0.1], [0.0, 0.0, 1.0, 1.0]])
    squares = square_around(boxes, 1.8)
    torch.testing.assert_close(
        squares, torch.tensor([[0.14, 0.24, 0.86, 0.96], [0.55, 0.0, 1.0, 0.45], [0.0, 0.0, 1.0, 1.0]])
    )
