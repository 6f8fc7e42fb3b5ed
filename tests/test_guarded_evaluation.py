"""Videos that crash or block the process that decodes them in a test, an extraction of features, or an embedding."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fima.cli import main
from fima.data.datasets import list_videos
from fima.data.decode.limits import USUAL_LIMITS, DecodeLimits
from fima.data.eval_clips import ClipSettings
from fima.data.loader import SkippedVideo
from fima.evaluate import extract
from fima.evaluate.extract import Resources, VideoRows, WindowChunk, WindowDataset, decoded_clips, extract_rows
from fima.evaluate.features import FeatureSource
from tests.encoder_files import write_checkpoint
from tests.evaluation_data import extract_features
from tests.small_runs import make_videos, read_lines
from tests.video_files import write_ucf101_avi

CLIPS = ClipSettings(frames=4, crop_size=16, num_clips=2)
SECONDS = 12.0


def hit(path: Path) -> None:
    """What a broken decoder does with videos of certain names."""
    if path.stem.endswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.stem.endswith("hang"):
        time.sleep(3600)


class CrashingVideos(WindowDataset):
    """A decoder that dies on one video, and blocks on another."""

    def chunks(self, index: int) -> Iterator[WindowChunk]:
        hit(self.paths[index])
        yield from super().chunks(index)


class CrashingWindows(WindowDataset):
    """A decoder that dies in the middle of one video, when its first clips are on their way."""

    def chunks(self, index: int) -> Iterator[WindowChunk]:
        for chunk in super().chunks(index):
            if chunk.number == 1:
                hit(self.paths[index])
            yield chunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos: the third crashes its process, the last one blocks it."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("0", "1", "2_crash", "3", "4", "5_hang")):
        write_ucf101_avi(root / "ab"[number % 2] / f"{name}.avi", num_frames=20, seed=number, side=40)
    return root


def test_a_crash_and_a_hang_cost_their_videos(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(folder.rglob("*.avi"))
    plain, _ = rows(paths, workers=0)
    monkeypatch.setattr(extract, "WindowDataset", CrashingVideos)
    kept, skipped = rows(paths, workers=1, limits=DecodeLimits(timeout_seconds=SECONDS))
    assert {Path(video.path).stem: video.reason for video in skipped} == {
        "2_crash": "the process that worked on it died (SIGSEGV)",
        "5_hang": f"not done after {SECONDS:g} s",
    }
    assert len(kept) == len(plain) - 2
    assert all(torch.equal(video.rows, plain[index].rows) for index, video in kept.items())


def test_clips_keep_their_order_where_a_video_crashes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(path for path in folder.rglob("*.avi") if "hang" not in path.name)
    plain = dict(decoded_clips(paths, CLIPS, Resources()))
    monkeypatch.setattr(extract, "WindowDataset", CrashingVideos)
    found = list(decoded_clips(paths, CLIPS, Resources(workers=2)))
    assert [place for place, _ in found] == [place for place, path in enumerate(paths) if "crash" not in path.name]
    assert all(torch.equal(clips, plain[place]) for place, clips in found)


def mean_rows(clips: Tensor) -> Tensor:
    return clips.float().mean(dim=(2, 3, 4))


def test_features_name_the_video_that_crashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "WindowDataset", CrashingWindows)
    source, clips = FeatureSource(name="mean", pool=mean_rows), replace(CLIPS, num_clips=20)
    (folder / "b" / "5_hang.avi").rename(folder / "away.txt")
    try:
        found = extract_features(source, list_videos(folder, "all"), clips, device=torch.device("cpu"), workers=2)
    finally:
        (folder / "away.txt").rename(folder / "b" / "5_hang.avi")
    assert len(found.paths) == 4
    (crashed,) = found.undecodable
    assert crashed.path.endswith("2_crash.avi")
    assert "died (SIGSEGV)" in crashed.reason


def rows(
    paths: list[Path], workers: int, limits: DecodeLimits = USUAL_LIMITS
) -> tuple[dict[int, VideoRows], list[SkippedVideo]]:
    settings = ClipSettings(frames=4, crop_size=16, num_clips=20)
    resources = Resources(batch_size=4, workers=workers, limits=limits)
    found = list(extract_rows(paths, mean_rows, settings, resources))
    skipped = [item for item in found if isinstance(item, SkippedVideo)]
    kept = {item.index: item for item in found if isinstance(item, VideoRows)}
    assert len(kept) + len(skipped) == len(found) == len(paths)
    return kept, skipped


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_in_the_middle_of_a_video_costs_that_video(
    workers: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(path for path in folder.rglob("*.avi") if "hang" not in path.name)
    plain, _ = rows(paths, workers=0)
    monkeypatch.setattr(extract, "WindowDataset", CrashingWindows)
    kept, (skipped,) = rows(paths, workers)
    assert skipped.path.endswith("2_crash.avi")
    assert "died (SIGSEGV)" in skipped.reason
    assert kept.keys() == plain.keys() - {skipped.index}
    for index, video in kept.items():
        assert torch.equal(video.rows, plain[index].rows)
        assert torch.equal(video.seconds, plain[index].seconds)


def test_a_process_that_something_else_has_ended_costs_no_row_and_doubles_none(folder: Path) -> None:
    paths = sorted(folder.rglob("*.avi"))
    plain, _ = rows(paths, workers=0)
    settings = ClipSettings(frames=4, crop_size=16, num_clips=20)
    found: list[VideoRows] = []
    for item in extract_rows(paths, mean_rows, settings, Resources(batch_size=4, workers=1)):
        assert isinstance(item, VideoRows)
        found.append(item)
        if len(found) == 1:
            workers = multiprocessing.active_children()
            assert workers
            for process in workers:
                process.kill()
    assert sorted(video.index for video in found) == list(plain)
    assert all(torch.equal(video.rows, plain[video.index].rows) for video in found)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (DecodeLimits(max_frame_pixels=64 * 64 - 1), "frames of 64x64, more than the 4,095 pixels allowed"),
        (DecodeLimits(max_clip_mb=1), "clips of 3 MB, more than the 1 MB allowed"),
    ],
)
def test_a_video_that_is_too_large_is_named(limits: DecodeLimits, reason: str, tmp_path: Path) -> None:
    path = write_ucf101_avi(tmp_path / "a" / "big.avi", num_frames=300, seed=0, side=64)
    clips = ClipSettings(frames=32, crop_size=16, num_clips=8)
    (item,) = WindowDataset([path], clips, limits=limits)
    assert isinstance(item, SkippedVideo)
    assert item.reason == reason
    for num_clips, allowed in ((8, DecodeLimits()), (2, DecodeLimits(max_clip_mb=1))):  # what is held is what counts
        (item,) = WindowDataset([path], replace(clips, num_clips=num_clips), limits=allowed)
        assert isinstance(item, WindowChunk)


def test_limits_come_from_the_flags_and_what_they_left_out_is_tried_again_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, checkpoint = make_videos(tmp_path / "videos"), write_checkpoint(tmp_path / "last.pt")
    write_ucf101_avi(videos / "a" / "large.avi", num_frames=12, seed=1, side=80)
    words = ["evaluate", checkpoint, videos, "--protocols", "knn", "--device", "cpu", "--workers", "0"]
    limit = ["--limits.max-frame-pixels", 40 * 40]

    def left_out(*flags: object) -> list[str]:
        out = tmp_path / "result.json"
        assert main([str(word) for word in (*words, "--out", out, *flags)]) == 0
        data = json.loads(out.read_text())["data"]
        return [Path(video["path"]).name for part in data.values() for video in part["undecodable"]]

    assert left_out(*limit) == ["large.avi"]
    assert "figures are without 1 video that could not be decoded, such as " in capsys.readouterr().err
    assert left_out() == []
    assert main([*map(str, words), "--limits.max-clip-mb", "0"]) == 2
    assert "--limits.max-clip-mb 0: must be at least 1" in capsys.readouterr().err
    out = tmp_path / "vectors.npz"
    assert main(["embed", *map(str, (checkpoint, videos, "-o", out, "--workers", 0, *limit))]) == 0
    assert [Path(line["path"]).name for line in read_lines(tmp_path / "vectors.npz.skipped.jsonl")] == ["large.avi"]
