"""The diagnosis: inputs against loops, and the truth about videos in which it is known what decides."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor, nn

from fima.cli import main
from fima.data.augment import MEAN, STD
from fima.data.eval_clips import ClipSettings
from fima.evaluate import intervals
from fima.evaluate.diagnosis import INPUTS, background_places, shown_inputs, verdict
from fima.evaluate.frozen import FrozenEncoder
from fima.evaluate.measured import Measured
from tests.video_files import write_video

SIDE, FRAMES = 32, 16
COLOURS = ((60, 60, 160), (160, 60, 60), (60, 160, 60))


def test_inputs_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(90, 94, (2, 3, 1, 8, 8), dtype=torch.uint8, generator=generator).repeat(1, 1, 6, 1, 1)
    for frame in range(6):
        clips[:, :, frame, 2:6, frame : frame + 3] = 250
    backgrounds = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    chosen = background_places(clips, len(backgrounds))
    shown = {name: pixels_of(value) for name, value in shown_inputs(clips, backgrounds[chosen])}
    assert tuple(shown) == INPUTS
    median = torch.from_numpy(np.sort(clips.numpy(), axis=2)[:, :, 2])
    for video in range(2):
        assert int(chosen[video]) == (int(clips[video, :, 0].long().sum()) * 2654435761 // 2**16) % 3
        for frame in range(6):
            own = clips[video, :, frame]
            assert torch.equal(shown["one_frame"][video, :, frame], clips[video, :, 3])
            assert torch.equal(shown["reversed"][video, :, frame], clips[video, :, 5 - frame])
            assert torch.equal(shown["background"][video, :, frame], median[video])
            assert torch.equal(shown["half_speed"][video, :, frame], clips[video, :, frame // 2])
            assert torch.equal(shown["double_speed"][video, :, frame], clips[video, :, (0, 2, 4, 0, 2, 4)[frame]])
            expected = 128 + (own.double() - median[video].double()) / 2
            assert float((shown["median_subtracted"][video, :, frame] - expected).abs().max()) < 1
            distance = (own.double() - median[video].double()).abs().mean(dim=0) > 12
            moving = torch.from_numpy(binary_erosion(distance.numpy(), np.ones((3, 3)), border_value=1))
            assert 0 < int(moving.sum()) < int(distance.sum())
            assert torch.equal(shown["foreground"][video, :, frame], torch.where(moving, own, 128))
            behind = 10 * (int(chosen[video]) + 1)
            assert torch.equal(shown["swapped"][video, :, frame], torch.where(moving, own, behind))
    assert not torch.equal(shown["shuffled"], clips)
    assert torch.equal(shown["shuffled"].sort(dim=2).values, clips.sort(dim=2).values)


def pixels_of(normalised: Tensor) -> Tensor:
    """The uint8 pixels behind what an encoder is shown, which must be whole numbers."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (MEAN, STD))
    pixels = (normalised * std + mean) * 255
    assert float((pixels - pixels.round()).abs().max()) < 1e-3
    return pixels.round().to(torch.uint8)


class ColourAndChange(nn.Module):
    """Sees colours, and where neighbouring frames differ: (B, 3, F, S, S) -> (B, 4, F, S, S)."""

    def forward(self, clip: Tensor) -> Tensor:
        return torch.cat([clip, ((clip - clip.roll(1, dims=2)).abs().amax(dim=1, keepdim=True) > 0.15).float()], dim=1)


def colour_and_change() -> FrozenEncoder:
    """What the command is given: it sees colour and motion alike, so the videos decide what it has learnt."""
    clips = ClipSettings(frames=8, crop_size=28)
    return FrozenEncoder(
        name="eye",
        network=ColourAndChange(),
        clips=clips,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        untrained=ColourAndChange,
    )


class ChangeAlone(ColourAndChange):
    """Sees nothing in a still clip."""

    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(clip)[:, 3:]


def change_alone() -> FrozenEncoder:
    """As `small`, which is shown motion only."""
    return replace(colour_and_change(), network=ChangeAlone(), untrained=ChangeAlone)


def write_videos(root: Path, seed: int, *, background: bool, motion: bool) -> Path:
    """Three classes by their background's colour, by how often a square moves, or by both; the other one is random."""
    generator = np.random.default_rng(seed)
    rows = ["path,label,split,group"]
    for number in range(60):
        label = number % 3
        colour, speed = (label if decides else int(generator.integers(3)) for decides in (background, motion))
        frames = np.zeros((FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
        frames[:] = np.array(COLOURS[colour]) + generator.integers(-6, 7, (SIDE, SIDE, 1))
        first = 8 * generator.integers(4)
        for frame in range(FRAMES):
            # It goes on to the next of four places every 8, 4 or 2 frames.
            row, column = divmod((first + frame) // (8, 4, 2)[speed] % 4, 2)
            frames[frame, 6 + 10 * row : 14 + 10 * row, 6 + 10 * column : 14 + 10 * column] = 230
        write_video(root / f"{number:02d}.avi", frames)
        rows.append(f"{number:02d}.avi,{label},{'test' if number >= 36 else 'train'},{number // 3}")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    ("background", "motion", "expected"),
    [
        (True, False, "The background decides"),
        (False, True, "Motion decides"),
        (True, True, "Background and motion both tell the classes"),
    ],
)
def test_it_names_what_decides(
    background: bool, motion: bool, expected: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = write_videos(tmp_path / "videos", seed, background=background, motion=motion)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "result.json"
    words = ["evaluate", f"{__name__}:colour_and_change", videos, "--out", out, "--diagnose"]
    words += ["--num-clips", 2, "--workers", 0, "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    result = json.loads(out.read_text())
    assert expected in result["verdict"], (result["verdict"], result["figures"])
    figures = result["figures"]
    assert figures["diagnosis/as_is"] >= 75
    # It has no weights, so it is its own floor.
    assert figures["diagnosis/untrained"] == figures["diagnosis/as_is"]
    assert figures["diagnosis/untrained_one_frame"] == figures["diagnosis/one_frame"]
    if not motion:
        assert figures["diagnosis/swapped/clips_of_background"] > figures["diagnosis/swapped/clips_of_foreground"]
    if not background:
        assert figures["diagnosis/one_frame"] < 75
        assert figures["diagnosis/swapped"] >= 75
        assert figures["diagnosis/swapped/clips_of_background"] < 60
    assert result["intervals"]["diagnosis/as_is"][1] >= figures["diagnosis/as_is"]


@pytest.mark.parametrize(("encoder", "is_blind"), [("colour_and_change", False), ("change_alone", True)])
def test_it_says_where_still_clips_cannot_differ(
    encoder: str, is_blind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, out = write_videos(tmp_path / "videos", 0, background=False, motion=True), tmp_path / "result.json"
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", f"{__name__}:{encoder}", videos, "--out", out, "--diagnose", "--num-clips", 2]
    assert main([str(word) for word in [*words, "--workers", 0, "--device", "cpu"]]) == 0
    result = json.loads(out.read_text())
    assert ("the first two could be no more" in result["verdict"]) == is_blind
    assert result["notes"]["diagnosis"]["still_clips_alike"] == is_blind


@pytest.mark.parametrize(("num_groups", "sure"), [(5, False), (8, False), (80, True)])
def test_few_videos_decide_nothing(num_groups: int, sure: bool) -> None:
    """Of 4 classes, three quarters of what is known above guessing is in the motion, and a tenth in the background."""
    rng, tested, count = np.random.default_rng(0), intervals.Tested(), 4 * num_groups
    rates = {"as_is": 0.85, "one_frame": 0.3, "background": 0.3, "swapped": 0.7}
    hits = {name: torch.from_numpy(rng.random(count) < rates.get(name, 0.5)) for name in INPUTS}
    paths = [f"{number}.mp4" for number in range(count)]
    groups = {Path(path): str(number // 4) for number, path in enumerate(paths)}
    tested.add(1, {"diagnosis": Measured(figures={}, chance={}, settings={}, hits=hits)}, paths, groups)
    said = verdict(tested, 25, seed=0)
    assert said.startswith("Motion decides: of what" if sure else "Too few test videos to be sure, but perhaps:"), said
    assert ("to" in said.split("background alone")[0].split("frame")[1]) == (num_groups > 5)


@pytest.mark.parametrize(
    ("num_right", "said"),
    [(8, "Too few test videos to show that"), (4, "The encoder does not tell"), (12, "Neither background nor")],
)
def test_what_is_not_shown_is_not_denied(num_right: int, said: str) -> None:
    """Two thirds of twelve videos of three classes are twice what guessing gets, but not surely more."""
    tested, paths = intervals.Tested(), [f"{number}.mp4" for number in range(12)]
    right = {name: num_right if name == "as_is" else 4 for name in INPUTS}
    hits = {name: torch.arange(12) < count for name, count in right.items()}
    tested.add(1, {"diagnosis": Measured(figures={}, chance={}, settings={}, hits=hits)}, paths, {})
    sentence = verdict(tested, 100 / 3, seed=0)
    assert sentence.startswith(said), sentence
    if num_right == 8:
        assert "better than guessing does (33.3 %): as they are, 66.7 % (95 %: " in sentence


def test_guessing_is_guessing_the_most_frequent_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thirds of the videos are of one class: an input that tells nothing gets two thirds, and not half."""
    videos = write_videos(tmp_path / "videos", 0, background=False, motion=True)
    header, *rows = (videos / "videos.csv").read_text().splitlines()
    merged = [row.replace(",1,", ",0,", 1) for row in rows]
    (videos / "videos.csv").write_text("\n".join([header, *merged]) + "\n")
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", f"{__name__}:colour_and_change", videos, "--out", "result.json", "--diagnose"]
    words += ["--num-clips", 2, "--workers", 0, "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    result = json.loads(Path("result.json").read_text())
    assert result["chance"]["diagnosis/as_is"] == pytest.approx(200 / 3)
    assert result["chance"]["diagnosis/background"] == pytest.approx(200 / 3)
    assert result["verdict"].startswith("Motion decides"), (result["verdict"], result["figures"])
    # Folds of one class each, where guessing gets all or nothing.
    rows = [f"{row.rsplit(',', 1)[0]},{row.split(',')[1]}-{number // 30}" for number, row in enumerate(merged)]
    (videos / "videos.csv").write_text("\n".join([header, *rows]) + "\n")
    assert main([*(str(word) for word in words), "--cross-validation", "group", "--protocols", "foreground"]) == 0
    result = json.loads(Path("result.json").read_text())
    assert len(result["splits"]) == 4
    assert result["chance"]["diagnosis/as_is"] == pytest.approx(200 / 3)
