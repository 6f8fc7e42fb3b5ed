"""What a person does in a video: for each degree of freedom a held change, an oscillation and a drift over time.

Four kinds of motion: gestures of one or both arms; walking, running and skipping, on the spot or across the picture;
jumping jacks, jumps, hops, bends, squats and turns of the whole body; and a few degrees of freedom at random.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import torch
from torch import Tensor

from fima.synthetic.people.draws import Draws


class Dof(IntEnum):
    """Degrees of freedom of a person; `R` and `L` are the person's own right and left. Angles are in radians."""

    RAISE_R, RAISE_L = 0, 1
    """Of the upper arm: 0 hangs down, pi/2 is level, pi points up."""
    SWEEP_R, SWEEP_L = 2, 3
    """Direction in which an arm is raised: 0 to its side, pi/2 to the front."""
    ELBOW_R, ELBOW_L = 4, 5
    """0 is straight."""
    TWIST_R, TWIST_L = 6, 7
    """Of the upper arm about itself: where the forearm points once the elbow is bent."""
    HIP_R, HIP_L = 8, 9
    """Of the thigh: positive is forward."""
    SPREAD_R, SPREAD_L = 10, 11
    """Of the thigh: positive is sideways, away from the other one."""
    KNEE_R, KNEE_L = 12, 13
    """0 is straight."""
    LEAN = 14
    """Of the upper body: positive is forward."""
    SIDE = 15
    """Of the upper body, to one side."""
    NOD = 16
    TILT = 17
    """Of the head, to one side."""
    TURN = 18
    """Of the whole body about the vertical; 0 faces the camera."""
    X = 19
    """Across the picture, in body heights."""
    Y = 20
    """Up, in body heights."""
    SIZE = 21
    """Relative growth in the picture: towards the camera."""


RAISE, SWEEP, ELBOW, TWIST, HIP, SPREAD, KNEE = (slice(first, first + 2) for first in range(0, 14, 2))
"""Both sides of a degree of freedom that arms or legs have."""
PARAMETERS = tuple(f"{dof.name.lower()}.{quantity}" for quantity in ("held", "swing", "speed", "drift") for dof in Dof)
"""Names of the 88 motion parameters, in the order of `Program.parameters`."""
GESTURE, GAIT, BODY, LOOSE = range(4)
KIND_WEIGHTS = (0.56, 0.2, 0.17, 0.07)
"""How often a video is of each kind."""
JACK, JUMP, HOP, BEND, SQUAT, SPIN = range(6)
"""The motions of the whole body, alike often."""
ONLY_RIGHT, ONLY_LEFT, ALIKE, OPPOSITE, APART = range(5)
SIDE_WEIGHTS = (0.33, 0.33, 0.16, 0.06, 0.12)
"""How often a gesture is made by one arm, by both alike, in opposite phase, or by both independently."""
SWAY_CYCLES = 1.3


@dataclass(frozen=True, kw_only=True)
class Program:
    """Motions of B videos over time 0..1, D = 22 degrees of freedom:

    base + held * gate + swing * max(gate, through) * sin(2 pi cycles t + phase) + drift * (t - 1/2) + sway,
    where the gate opens at `start` and closes at `stop`.
    """

    base: Tensor
    """Pose at rest, (B, D)."""
    held: Tensor
    """Change of pose that is held while the gate is open, (B, D)."""
    swing: Tensor
    """Amplitude of the oscillation, (B, D)."""
    cycles: Tensor
    """Oscillations in the video, (B, D)."""
    phase: Tensor
    """Of the oscillation, (B, D)."""
    drift: Tensor
    """Even change from the first moment to the last, (B, D)."""
    sway: Tensor
    """Amplitude of the slight motion of a person at rest, (B, D)."""
    start: Tensor
    """When the gate begins to open, (B,)."""
    stop: Tensor
    """When the gate begins to close, (B,)."""
    rise: Tensor
    """How long it takes to open or close, (B,)."""
    through: Tensor
    """Share of the oscillation that goes on while the gate is closed, (B,)."""

    def values(self, times: Tensor) -> Tensor:
        """Degrees of freedom (B, T, D) at times (B, T)."""
        rise = self.rise[:, None]
        gate = _smooth_step((times - self.start[:, None]) / rise)
        gate = gate * (1 - _smooth_step((times - self.stop[:, None]) / rise))
        swinging = torch.maximum(gate, self.through[:, None])[..., None]
        time = times[..., None]
        phase, swing = self.phase[:, None], self.swing[:, None]
        return (
            self.base[:, None]
            + self.held[:, None] * gate[..., None]
            + swing * swinging * torch.sin(2 * math.pi * self.cycles[:, None] * time + phase)
            + self.drift[:, None] * (time - 0.5)
            + self.sway[:, None] * torch.sin(2 * math.pi * SWAY_CYCLES * time + 3 * phase)
        )

    def parameters(self) -> Tensor:
        """What the videos do, (B, 88) in the order of `PARAMETERS`: held change, swing, its speed, and drift."""
        return torch.cat([self.held, self.swing, self.swing * self.cycles / 4, self.drift], dim=1)


def _smooth_step(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x.square() * (3 - 2 * x)


def draw_program(draws: Draws) -> Program:
    """Draw the motions of a batch of videos."""
    kind = draws.choice(KIND_WEIGHTS)
    action = draws.choice([1] * 6)
    program = _at_rest(draws)
    _add_gesture(program, draws, (kind == GESTURE).float())
    _add_gait(program, draws, (kind == GAIT).float())
    _add_body_motion(program, draws, (kind == BODY).float(), action)
    loose = (kind == LOOSE).float()[:, None] * draws.chance(0.2, len(Dof))
    limit = torch.full((len(Dof),), 0.5, device=draws.device)
    limit[[Dof.X, Dof.Y, Dof.SIZE]] = 0.1
    limit[Dof.TURN] = 0.6
    program.swing.add_(loose * limit * draws.uniform(0, 1, len(Dof)))
    program.held.add_(loose * limit * draws.uniform(-1, 1, len(Dof)))
    for dof in (Dof.NOD, Dof.TILT):
        program.swing[:, dof] += draws.chance(0.15) * draws.uniform(0, 0.5)
    rhythmic = (kind == BODY) & (action <= HOP)
    # A turn takes the whole video in any case.
    partly = 0.5 * draws.chance(0.25) * (1 - ((kind == BODY) & (action == SPIN)).float())
    program.through.copy_(torch.maximum(partly, ((kind == GAIT) | rhythmic).float()))
    return program


def _at_rest(draws: Draws) -> Program:
    """People who stand there, most of them facing the camera; one rhythm for all degrees of freedom of a video."""
    zeros = partial(torch.zeros, draws.num_videos, len(Dof), device=draws.device)
    base = zeros()
    base[:, RAISE] = draws.uniform(0.02, 0.25, 2)
    base[:, ELBOW] = draws.uniform(0, 0.4, 2)
    base[:, SWEEP] = draws.uniform(0, 1.2, 2)
    base[:, TWIST] = draws.uniform(-0.6, 0.6, 2)
    base[:, SPREAD] = draws.uniform(0.02, 0.15, 2)
    base[:, Dof.TURN] = torch.where(draws.chance(0.7) > 0, draws.normal(0.25), draws.uniform(-3.1, 3.1))
    return Program(
        base=base,
        held=zeros(),
        swing=zeros(),
        cycles=zeros() + draws.uniform(1, 7, 1),
        phase=zeros() + draws.uniform(0, 2 * math.pi, 1),
        drift=zeros(),
        sway=draws.uniform(0, 0.015, len(Dof)),
        start=draws.uniform(0, 0.35),
        stop=draws.uniform(0.6, 1.1),
        rise=draws.uniform(0.06, 0.22),
        through=torch.zeros(draws.num_videos, device=draws.device),
    )


def _add_gesture(program: Program, draws: Draws, chosen: Tensor) -> None:
    """Raise and bend arms, and swing them about the pose that is held; `chosen` is 1 or 0 for each video."""
    side = draws.choice(SIDE_WEIGHTS)
    held = torch.stack(
        [draws.uniform(*limits, 2) for limits in ((-0.1, 2.9), (-0.8, 1.6), (-0.3, 2.4), (-1.6, 1.6))], dim=1
    )  # (B, degree of freedom, side)
    held = held * draws.chance(0.9, 1, 1)
    swing = torch.stack([draws.uniform(0.1, high, 2) for high in (0.9, 0.9, 1.0, 0.9)], dim=1)
    picked = torch.stack([draws.chance(probability, 2) for probability in (0.45, 0.3, 0.45, 0.25)], dim=1)
    swing = swing * picked * draws.chance(0.75, 1, 1)
    same = (side == ALIKE) | (side == OPPOSITE)
    for values in (held, swing):
        values[..., 1] = torch.where(same[:, None], values[..., 0], values[..., 1])
    moving = chosen[:, None] * torch.stack([side != ONLY_LEFT, side != ONLY_RIGHT], dim=1)
    for place, dofs in enumerate((RAISE, SWEEP, ELBOW, TWIST)):
        program.held[:, dofs] += moving * held[:, place]
        program.swing[:, dofs] += moving * swing[:, place]
        shift = 0.5 * math.pi * draws.uniform(0, 4).floor()
        program.phase[:, dofs] += shift[:, None]
        program.phase[:, dofs.stop - 1] += math.pi * (side == OPPOSITE)


def _add_gait(program: Program, draws: Draws, chosen: Tensor) -> None:
    """Swing legs and arms as in walking, running and skipping, most of them across the picture."""
    cycles = draws.uniform(1.5, 6)
    stride = chosen * draws.uniform(0.2, 0.85)
    arms = stride * draws.uniform(0, 1)
    # These phases stay in videos without gait, where they only mean that what swings does not swing alike.
    shifts = {
        Dof.HIP_R: (0.0, stride),
        Dof.HIP_L: (math.pi, stride),
        Dof.KNEE_R: (-1.2, stride * draws.uniform(0.3, 1)),
        Dof.KNEE_L: (math.pi - 1.2, stride * draws.uniform(0.3, 1)),
        Dof.RAISE_R: (math.pi, arms),
        Dof.RAISE_L: (0.0, arms),
    }
    for dof, (phase, swing) in shifts.items():
        program.swing[:, dof] += swing
        program.phase[:, dof] += phase
        program.cycles[:, dof] = torch.where(chosen > 0, cycles, program.cycles[:, dof])
    # Skipping and galloping: one leg follows the other.
    program.phase[:, Dof.HIP_L] -= chosen * draws.chance(0.2) * draws.uniform(1.5, 3.1)
    program.base[:, KNEE] += 0.6 * stride[:, None]
    program.base[:, SWEEP] = torch.where(chosen[:, None] > 0, 1.5, program.base[:, SWEEP])
    program.base[:, ELBOW] += chosen[:, None] * draws.uniform(0, 1.6, 1)
    program.base[:, Dof.LEAN] += chosen * draws.uniform(0, 0.35)
    direction = draws.sign()
    frontal = draws.chance(0.2)
    sideways = (chosen * (1 - frontal)) > 0
    program.base[:, Dof.TURN] = torch.where(sideways, direction * draws.uniform(1.1, 1.6), program.base[:, Dof.TURN])
    program.drift[:, Dof.X] += chosen * draws.chance(0.75) * direction * draws.uniform(0.2, 1.6)
    program.drift[:, Dof.SIZE] += chosen * frontal * draws.uniform(-0.5, 0.6)
    program.swing[:, Dof.Y] += stride * draws.uniform(0, 0.09)
    program.cycles[:, Dof.Y] = torch.where(chosen > 0, 2 * cycles, program.cycles[:, Dof.Y])


def _add_body_motion(program: Program, draws: Draws, chosen: Tensor, action: Tensor) -> None:
    """Move the whole body: jumping jacks, jumps on the spot and across the picture, bends, squats, turns."""

    def doing(*actions: int) -> Tensor:
        return chosen * torch.stack([action == number for number in actions]).any(dim=0)

    jack, bend, squat, spin = doing(JACK)[:, None], doing(BEND), doing(SQUAT)[:, None], doing(SPIN)
    program.swing[:, RAISE] += jack * 1.3 * draws.uniform(0.6, 1.1, 2)
    program.base[:, RAISE] += jack * 1.4
    program.base[:, SWEEP] *= 1 - 0.9 * jack
    program.swing[:, SPREAD] += jack * 0.3
    program.base[:, SPREAD] += jack * 0.3

    program.swing[:, Dof.Y] += doing(JACK, JUMP, HOP) * draws.uniform(0.03, 0.14)
    jump = doing(JUMP, HOP)[:, None]
    program.swing[:, KNEE] += jump * draws.uniform(0.1, 0.7, 2)
    program.base[:, KNEE] += jump * 0.5
    program.swing[:, HIP] += jump * draws.uniform(0, 0.4, 2)
    program.base[:, HIP] += jump * 0.3
    program.drift[:, Dof.X] += doing(HOP) * draws.sign() * draws.uniform(0.2, 1.5)

    program.held[:, Dof.LEAN] += bend * draws.uniform(0.5, 1.7)
    program.held[:, SWEEP] += bend[:, None]
    program.held[:, RAISE] += bend[:, None] * draws.uniform(0, 1.6, 1)
    turned = (doing(HOP) + bend * draws.chance(0.7)) > 0
    program.base[:, Dof.TURN] = torch.where(turned, draws.sign() * draws.uniform(0.9, 1.6), program.base[:, Dof.TURN])

    program.held[:, KNEE] += squat * draws.uniform(0.5, 1.6, 1)
    program.held[:, HIP] += squat * 0.8
    program.held[:, Dof.Y] -= squat[:, 0] * 0.12

    program.drift[:, Dof.TURN] += spin * draws.sign() * draws.uniform(1.5, 6.3)
    program.swing[:, Dof.SIDE] += spin * draws.chance(0.4) * draws.uniform(0.1, 0.4)

    rhythmic = doing(JACK, JUMP, HOP)[:, None] > 0
    program.cycles.copy_(torch.where(rhythmic, draws.uniform(1.5, 6, 1), program.cycles))
    program.phase.copy_(torch.where(rhythmic, program.phase[:, :1], program.phase))
