"""Videos to measure on: those that are given, and made ones of the two usual kinds."""

from pathlib import Path

from fima.synthetic.textured import encode, textured_frames

SHARED = Path(__file__).parents[2] / "shared" / "videos"


def sample_videos(folder: Path, given: list[Path]) -> list[Path]:
    """The given videos, or those next to the repository where there are any, and two synthetic ones.

    Args:
        folder: where to write the made ones.
        given: videos to measure on.
    """
    found = given or (sorted(SHARED.iterdir()) if SHARED.is_dir() else [])
    frames = textured_frames(180, 240, 320)
    return [
        *found,
        encode(folder / "made_sparse_keys.mp4", frames, "libx264", {"crf": "21", "g": "250", "bf": "3"}),
        encode(folder / "made_mpeg4.avi", frames, "mpeg4", {"b": "800000", "g": "250"}),
    ]


def class_videos(folder: Path, num_videos: int, side: int = 40) -> Path:
    """Writes small videos of two classes, in a folder each, and returns the folder of both."""
    for number in range(num_videos):
        path = folder / "ab"[number % 2] / f"{number:03d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, textured_frames(12 + number % 5, side, side, seed=number), "mpeg4", {"g": "250"})
    return folder
