"""Data sets in the layouts of the official archives, with small real videos."""

import functools
import tempfile
from pathlib import Path

from fima.data.datasets import VideoList
from tests.video_files import write_ucf101_avi


@functools.cache
def video_bytes() -> bytes:
    """Content of one small video, encoded once."""
    with tempfile.TemporaryDirectory() as folder:
        return write_ucf101_avi(Path(folder) / "v.avi", num_frames=4, side=32).read_bytes()


def write_videos(root: Path, *names: str) -> None:
    """Writes the same video under each name; FFmpeg goes by the content, so any extension will do."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(video_bytes())


def write_lines(path: Path, *lines: str) -> Path:
    """Writes a list file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def labelled(listed: VideoList) -> dict[str, str | None]:
    """Class name by path relative to the root; None for videos without a class."""
    return {
        video.path.relative_to(listed.root).as_posix(): None if video.label is None else listed.classes[video.label]
        for video in listed.videos
    }
