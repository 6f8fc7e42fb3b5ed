"""The protocol `diagnosis` as a picture: what remains of the accuracy on each input, above the floors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INPUTS = {
    "as_is": "the video as it is",
    "one_frame": "one frame, repeated",
    "shuffled": "frames shuffled",
    "reversed": "frames reversed",
    "median_subtracted": "median subtracted",
    "foreground": "foreground only",
    "background": "background only",
    "swapped": "other background",
    "half_speed": "half speed",
    "double_speed": "double speed",
}
"""In the order of the picture, and what it calls them."""
FLOORS = {
    "untrained": "untrained network",
    "untrained_one_frame": "untrained network, one frame",
    "frame_differences": "frame differences, no network",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One input."""

    name: str
    """What the encoder saw."""
    value: float
    """Top-1, in percent."""
    interval: tuple[float, float] | None
    """95 %, where groups of videos are known."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One diagnosis."""

    title: str
    colour: str
    """Of the run."""
    bars: list[Bar]
    floors: list[Bar]
    """Chance, and what is had without training."""
    verdict: str

    @property
    def summary(self) -> str:
        """What it shows, in words, for those who cannot see it."""
        return ", ".join(f"{bar.name} {bar.value:.1f} percent" for bar in [*self.bars, *self.floors])


def diagnosis_of(title: str, colour: str, content: Mapping[str, Any]) -> Diagnosis | None:
    """Return the diagnosis of an evaluation, whose content is as in `Result`; None where it has none."""
    figures, intervals = content["figures"], content.get("intervals") or {}
    if "diagnosis/as_is" not in figures:
        return None

    def bars(names: Mapping[str, str]) -> list[Bar]:
        found = {name: f"diagnosis/{name}" for name in names if f"diagnosis/{name}" in figures}
        return [Bar(name=names[name], value=figures[key], interval=intervals.get(key)) for name, key in found.items()]

    chance = Bar(name="chance", value=content["chance"]["diagnosis/as_is"], interval=None)
    verdict = content.get("verdict") or ""
    return Diagnosis(title=title, colour=colour, bars=bars(INPUTS), floors=[chance, *bars(FLOORS)], verdict=verdict)
