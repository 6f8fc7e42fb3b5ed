"""From degrees of freedom to the limbs that the camera sees.

Coordinates of a body: x to the viewer's right when the person faces the camera, y up, z to the front; the hips are at
the origin, and a body is about 1 high. Those of the picture: x right and y down, in 0..1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fima.synthetic.people.programs import Dof
from fima.synthetic.people.textures import LENGTHS, SHIN, SHIRT, SHOE, SKIN, SLEEVE, TROUSERS, Person

SHOULDER_DROP = 0.02
HAND = 0.05
FOOT = 0.06
PERSPECTIVE = 0.25
"""Growth in the picture per body height towards the camera."""
TO_FRONT, TO_SIDE, ABOUT_VERTICAL = (1, 2), (0, 1), (2, 0)
"""Axes of turns: from up to the front, from the right upwards, and from the front to the right."""


Limb = tuple[Tensor, Tensor, float, int]
"""A straight limb with round ends: from and to where (B, T, 3), radius in body heights, and which colour it has."""


@dataclass(frozen=True, kw_only=True)
class Capsules:
    """K limbs of B people in T frames, as the camera sees them."""

    start: Tensor
    """(B, T, K, 2)."""
    end: Tensor
    """(B, T, K, 2)."""
    radius: Tensor
    """(B, T, K), in heights of the picture; negative: not there."""
    colours: Tensor
    """RGB, (B, T, K, 3)."""


def capsules(pose: Tensor, person: Person, camera: Tensor) -> Capsules:
    """Return the limbs of people in the picture, those behind first.

    Poses are degrees of freedom (B, T, D), the camera is the shift of the picture in each frame, (B, T, 2).
    """
    starts, ends, radii, parts = zip(*_limbs(pose, person.proportions), strict=True)
    turn = pose[..., Dof.TURN, None]
    start, end = (_turned(torch.stack(points, dim=2), turn, ABOUT_VERTICAL) for points in (starts, ends))
    # (B, T, 1) body heights → picture heights
    scale = person.height[:, None, None] * (1 + pose[..., Dof.SIZE, None]).clamp(0.4, 2)

    def projected(points: Tensor) -> Tensor:
        near = scale / (1 - PERSPECTIVE * points[..., 2])
        x = near * points[..., 0] + scale * pose[..., Dof.X, None]
        y = near * points[..., 1] + scale * pose[..., Dof.Y, None]
        return person.place[:, None, None] + camera[:, :, None] + torch.stack([x, -y], dim=-1)

    radius = torch.tensor(radii, device=pose.device) * person.girth[:, None]
    colours = person.colours[:, list(parts)]
    order = (start + end)[..., 2].argsort(dim=2)

    def sorted_by_depth(values: Tensor) -> Tensor:
        return values.gather(2, order[..., None].expand(-1, -1, -1, values.shape[-1]))

    return Capsules(
        start=sorted_by_depth(projected(start)),
        end=sorted_by_depth(projected(end)),
        radius=(radius[:, None] * scale).gather(2, order),
        colours=sorted_by_depth(colours[:, None].expand(-1, pose.shape[1], -1, -1)),
    )


def _limbs(pose: Tensor, proportions: Tensor) -> list[Limb]:
    """The sixteen limbs of a body that faces the camera."""
    lengths = proportions * torch.tensor([*LENGTHS.values()], device=pose.device)
    length = dict(zip(LENGTHS, lengths.chunk(len(LENGTHS), dim=1), strict=True))  # (B, 1) each

    def upper(x: Tensor | float, y: Tensor | float) -> Tensor:
        """A point of the upper body, which leans."""
        return _lean(_vector(pose, x, y, 0), pose)

    torso = length["torso"]
    shoulders = 0.8 * length["shoulders"]
    neck = _vector(pose, 0, torso, 0)
    nod = _turned(_vector(pose, 0, length["head"] + 0.045, 0), pose[..., Dof.NOD], TO_FRONT)
    head = neck + _turned(nod, pose[..., Dof.TILT], TO_SIDE)
    head, crown = (_lean(point, pose) for point in (head, head + _vector(pose, 0, 0.015, 0)))
    high = torso - SHOULDER_DROP
    limbs = [
        (upper(0, 0.05), upper(0, torso - 0.05), 0.085, SHIRT),
        (upper(-shoulders, high), upper(shoulders, high), 0.045, SHIRT),
        (_lean(neck, pose), head, 0.035, SKIN),
        (head, crown, 0.062, SKIN),
    ]
    for side in (0, 1):
        limbs += _arm(pose, length, side)
        limbs += _leg(pose, length, side)
    return limbs


def _arm(pose: Tensor, length: dict[str, Tensor], side: int) -> list[Limb]:
    """Upper arm, forearm and hand of the right (0) or left (1) side; a person's right is on the viewer's left."""
    sign = 2.0 * side - 1
    raised, sweep, elbow, twist = (
        pose[..., first + side] for first in (Dof.RAISE_R, Dof.SWEEP_R, Dof.ELBOW_R, Dof.TWIST_R)
    )
    # The upper arm, and the two directions at right angles to it in which a bent forearm may point.
    upper = _vector(pose, sign * raised.sin() * sweep.cos(), -raised.cos(), raised.sin() * sweep.sin())
    lifted = _vector(pose, sign * raised.cos() * sweep.cos(), raised.sin(), raised.cos() * sweep.sin())
    across = sign * torch.linalg.cross(upper, lifted, dim=-1)
    bent = twist.cos()[..., None] * lifted + twist.sin()[..., None] * across
    fore = elbow.cos()[..., None] * upper + elbow.sin()[..., None] * bent
    shoulder = _vector(pose, sign * length["shoulders"], length["torso"] - SHOULDER_DROP, 0)
    joint = shoulder + length["upper_arm"][..., None] * upper
    wrist = joint + length["forearm"][..., None] * fore
    shoulder, joint, wrist, tip = (_lean(point, pose) for point in (shoulder, joint, wrist, wrist + HAND * fore))
    return [(shoulder, joint, 0.034, SHIRT), (joint, wrist, 0.027, SLEEVE), (wrist, tip, 0.03, SKIN)]


def _leg(pose: Tensor, length: dict[str, Tensor], side: int) -> list[Limb]:
    """Thigh, shin and foot of the right (0) or left (1) side."""
    sign = 2.0 * side - 1
    hip, spread, knee = (pose[..., first + side] for first in (Dof.HIP_R, Dof.SPREAD_R, Dof.KNEE_R))

    def direction(forward: Tensor) -> Tensor:
        return _vector(pose, sign * spread.sin() * forward.cos(), -spread.cos() * forward.cos(), forward.sin())

    top = _vector(pose, sign * length["hips"], 0, 0)
    joint = top + length["thigh"][..., None] * direction(hip)
    ankle = joint + length["shin"][..., None] * direction(hip - knee.clamp(min=0))
    toe = ankle + FOOT * _vector(pose, 0, -0.2, 1)
    return [(top, joint, 0.052, TROUSERS), (joint, ankle, 0.037, SHIN), (ankle, toe, 0.028, SHOE)]


def _vector(pose: Tensor, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
    """(B, T, 3) of coordinates that are numbers, (B, 1) or (B, T)."""
    zeros = torch.zeros_like(pose[..., 0])
    return torch.stack([zeros + x, zeros + y, zeros + z], dim=-1)


def _lean(point: Tensor, pose: Tensor) -> Tensor:
    return _turned(_turned(point, pose[..., Dof.LEAN], TO_FRONT), pose[..., Dof.SIDE], TO_SIDE)


def _turned(points: Tensor, angle: Tensor, axes: tuple[int, int]) -> Tensor:
    """Turn points (…, 3) by angles (…) from the first axis towards the second."""
    first, second = axes
    a, b = points[..., first], points[..., second]
    coordinates = [*points.unbind(-1)]
    coordinates[first], coordinates[second] = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return torch.stack(coordinates, dim=-1)
