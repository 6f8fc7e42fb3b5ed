import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from fima.cli import main
from fima.data.datasets import list_videos
from fima.data.decode.video import VideoReader
from fima.data.workers.killable_pool import Failed
from fima.library.prepare import Job, plan
from fima.library.transcode import TranscodeSettings, target_size, transcode
from tests.odd_videos import write_anamorphic, write_packed_avi
from tests.test_datasets import touch
from tests.video_files import moving_square, write_h264_mp4, write_ucf101_avi, write_video


def prepare(source: Path, target: Path, *words: str) -> int:
    return main(["prepare", str(source), str(target), "--workers", "1", *words])


def make_ucf101(root: Path) -> Path:
    """Two classes, one test video each, with the official lists."""
    for name in ("Archery", "Biking"):
        for group in (1, 2):
            write_ucf101_avi(root / "data" / name / f"v_{name}_g0{group}_c01.avi", num_frames=12, seed=group)
    (root / "anno").mkdir()
    (root / "anno" / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    for split, group in (("train", 1), ("test", 2)):
        lines = [f"{name}/v_{name}_g0{group}_c01.avi {label}" for label, name in ((1, "Archery"), (2, "Biking"))]
        (root / "anno" / f"{split}list01.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tree_labels_and_lists_stay(tmp_path: Path) -> None:
    source, target = make_ucf101(tmp_path / "ucf"), tmp_path / "small"
    assert prepare(source, target) == 0
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        before, after = (list_videos(root, split) for root in (source, target))
        assert after.classes == before.classes == ["Archery", "Biking"]
        assert [(video.path.stem, video.label) for video in after.videos] == [
            (video.path.stem, video.label) for video in before.videos
        ]
        assert not after.missing


def test_the_record_is_not_named_as_passed_over(tmp_path: Path) -> None:
    write_ucf101_avi(tmp_path / "v" / "a.avi", num_frames=12)
    assert prepare(tmp_path / "v", tmp_path / "small") == 0
    assert list_videos(tmp_path / "small").warnings() == []


def test_frames_stay_and_key_frames_are_frequent(tmp_path: Path) -> None:
    frames = moving_square(40, 96, 128)
    write_video(tmp_path / "v" / "a.mp4", frames, codec="libx264", options={"crf": "5"}, gop_frames=250, b_frames=2)
    assert prepare(tmp_path / "v", tmp_path / "p", "--short-side", "48", "--gop", "8", "--crf", "5") == 0
    with VideoReader(tmp_path / "p" / "a.mp4") as reader:
        assert (reader.width, reader.height, reader.fps) == (64, 48, 25)
        packets = list(reader._packets.starting_at(0))
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        assert max(np.diff([*keys, len(packets)])) <= 8
        read = reader.read(range(40)).astype(float)
    small = frames.reshape(40, 48, 2, 64, 2, 3).mean(axis=(2, 4))
    nearest = [int(np.abs(small - frame).mean(axis=(1, 2, 3)).argmin()) for frame in read]
    assert nearest == list(range(40))
    assert np.abs(small - read).mean() < 6


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "v", tmp_path / "p"
    for name in ("a", "b"):
        write_ucf101_avi(source / f"{name}.avi")
    (source / "c.mp4").write_text("no video")
    assert prepare(source, target) == 1
    output = capsys.readouterr().out
    assert "videos written: 2, done before: 0" in output
    assert "1 not rewritten (`fima doctor` says what to do):\n  c.mp4: cannot be opened" in output
    assert sorted(path.name for path in target.iterdir()) == ["a.mp4", "b.mp4", "prepared.jsonl"]
    write_ucf101_avi(source / "b.avi", num_frames=30)
    (source / "c.mp4").unlink()
    (target / ".a.123.tmp.mp4").write_text("rest of an interrupted run")
    assert prepare(source, target) == 0
    assert "videos written: 1, done before: 1" in capsys.readouterr().out
    assert sorted(path.name for path in target.iterdir()) == ["a.mp4", "b.mp4", "prepared.jsonl"]
    with (target / "prepared.jsonl").open("a") as record:
        record.write('{"source": "cut o')
    (target / "a.mp4").write_bytes(b"another")
    (source / "a.avi").touch()
    assert prepare(source, target) == 0
    assert "videos written: 1, done before: 1" in capsys.readouterr().out
    assert prepare(source, target) == 0
    assert "videos written: 0, done before: 2" in capsys.readouterr().out
    assert prepare(source, target, "--gop", "4") == 2
    error = capsys.readouterr().err
    assert "begun with --short-side 256 --gop 16 --crf 20, now asked for --short-side 256 --gop 4 --crf 20;" in error
    (target / "prepared.jsonl").write_text("overwritten\n")
    assert prepare(source, target) == 2
    assert "prepared.jsonl: its first line, the settings, is lost" in capsys.readouterr().err


def test_what_is_done_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = make_ucf101(tmp_path / "ucf"), tmp_path / "small"
    assert prepare(source, target) == 0
    monkeypatch.setattr("fima.commands.prepare.shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    assert prepare(source, target) == 0
    (target / "data" / "Biking" / "v_Biking_g01_c01.mp4").unlink()
    assert prepare(source, target) == 2


def test_names_that_differ_in_their_ending(tmp_path: Path) -> None:
    write_ucf101_avi(tmp_path / "v" / "a.avi", num_frames=6)
    write_h264_mp4(tmp_path / "v" / "a.mp4", num_frames=9)
    assert prepare(tmp_path / "v", tmp_path / "p") == 0
    found = {}
    for name in ("a.avi.mp4", "a.mp4.mp4"):
        with VideoReader(tmp_path / "p" / name) as reader:
            found[name] = reader.num_frames
    assert found == {"a.avi.mp4": 6, "a.mp4.mp4": 9}


def test_every_video_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Also where a name with its ending is that of another video."""
    touch(tmp_path, "frames/1.png")
    videos = [Path(name) for name in ("v.avi", "v.mkv", "v.avi.mp4", "v.avi.mp4.mp4", "w.avi", "frames", "frames.avi")]
    found = [job.target.name for job in plan(tmp_path, tmp_path / "p", videos, TranscodeSettings())]
    kept = ["v.avi.mp4", "v.mkv.mp4", "v.avi.mp4.mp4", "v.avi.mp4.mp4.mp4", "w.mp4", "frames.mp4", "frames.avi.mp4"]
    assert found == kept


def test_a_list_that_is_a_link_to_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "v", tmp_path / "p"
    write_ucf101_avi(source / "a.avi", num_frames=6)
    (source / "labels.csv").symlink_to(tmp_path / "nowhere")
    (source / "notes.txt").write_text("a list")
    assert prepare(source, target) == 1
    told = capsys.readouterr().out
    assert "videos written: 1, done before: 0; list files copied: 1" in told
    assert "labels.csv: cannot be read (No such file or directory)" in told
    assert {path.name for path in target.iterdir()} == {"a.mp4", "notes.txt", "prepared.jsonl"}


def test_files_of_sources_that_are_gone_are_told_and_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "v", tmp_path / "p"
    for name in "abc":
        write_ucf101_avi(source / f"{name}.avi")
    assert prepare(source, target) == 0
    assert "are there no longer" not in capsys.readouterr().out
    write_h264_mp4(source / "a.mp4")  # from now on a.avi.mp4 and a.mp4.mp4
    (source / "b.avi").unlink()
    assert prepare(source, target) == 0
    told = f"{target}: 2 files of videos that have other names or are there no longer, such as a.mp4: they stay"
    assert told in capsys.readouterr().out
    assert {path.name for path in target.glob("*.mp4")} == {"a.mp4", "a.avi.mp4", "a.mp4.mp4", "b.mp4", "c.mp4"}


def test_a_source_that_changes_while_it_is_rewritten_is_rewritten_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_ucf101_avi(tmp_path / "v" / "a.avi", num_frames=12)

    def changed_at_the_end(function: Callable[[Job], object], jobs: Sequence[Job], **_: object) -> Iterator[object]:
        outcome = function(jobs[0])
        write_ucf101_avi(video, num_frames=20)
        yield 0, outcome

    with monkeypatch.context() as patch:
        patch.setattr("fima.library.prepare.run_isolated", changed_at_the_end)
        assert prepare(tmp_path / "v", tmp_path / "p") == 0
    capsys.readouterr()
    assert prepare(tmp_path / "v", tmp_path / "p") == 0
    assert "videos written: 1, done before: 0" in capsys.readouterr().out
    with VideoReader(tmp_path / "p" / "a.mp4") as reader:
        assert reader.num_frames == 20


def test_what_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_ucf101_avi(tmp_path / "v" / "a.avi")
    assert prepare(video, tmp_path / "p") == 2
    assert "a.avi: not a folder; give the folder that holds the videos" in capsys.readouterr().err
    (tmp_path / "p").touch()
    assert prepare(tmp_path / "v", tmp_path / "p") == 2
    assert "p: not a folder; name a folder to write to" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.mp4", "labels.csv"])
def test_files_of_others_are_never_overwritten(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "v", tmp_path / "p"
    write_ucf101_avi(source / "a.avi", num_frames=6)
    (source / "labels.csv").write_text("path,label\na.avi,run\n")
    target.mkdir()
    (target / name).write_text("of somebody else")
    assert prepare(source, target) == 2
    assert f"{target / name}: would be overwritten" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [(name, "of somebody else")]
    (target / name).rename(target / "other.txt")
    assert prepare(source, target) == 0
    assert (target / "other.txt").read_text() == "of somebody else"


def out_of_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("full", ["encoder", "flush"])
def test_a_full_disk_ends_it_and_leaves_what_is_finished(
    full: Literal["encoder", "flush"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a", "b", "c"):
        write_ucf101_avi(tmp_path / "v" / f"{name}.avi")

    def full_after_one(function: Callable[[Job], int], jobs: Sequence[Job], **_: object) -> Iterator[object]:
        yield 0, function(jobs[0])
        jobs[1].target.with_name(".b.123.tmp.mp4").write_bytes(b"as much as there was room for")
        jobs[2].target.with_name(".c.124.tmp.mp4").write_bytes(b"another process's")
        if full == "flush":
            with monkeypatch.context() as patch:
                patch.setattr("fima.files.atomic.flush_to_disk", out_of_space)
                yield 1, function(jobs[1])
        yield 1, Failed("cannot be rewritten (no space left on the disk)")

    with monkeypatch.context() as patch:
        patch.setattr("fima.library.prepare.run_isolated", full_after_one)
        assert prepare(tmp_path / "v", tmp_path / "p") == 2
    assert "p: the disk is full; the videos that are finished stay" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["a.mp4", "prepared.jsonl"]
    assert prepare(tmp_path / "v", tmp_path / "p") == 0
    assert "videos written: 2, done before: 1" in capsys.readouterr().out


def test_an_interrupt_leaves_whole_files_only(tmp_path: Path) -> None:
    source, target = tmp_path / "v", tmp_path / "p"
    for number in range(6):
        write_ucf101_avi(source / f"{number}.avi", num_frames=60, side=128, seed=number)
    words = [sys.executable, "-m", "fima", "prepare", str(source), str(target), "--workers", "1", "--no-check-space"]
    process = subprocess.Popen(words, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not list(target.glob("[0-9].mp4")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode in (0, 130)
    assert process.returncode == 0 or b"repeat the command to go on" in errors
    assert not list(target.glob(".*"))
    finished = list(target.glob("[0-9].mp4"))
    assert finished
    for path in finished:
        with VideoReader(path) as reader:
            assert reader.num_frames == 60
    assert prepare(source, target) == 0
    lines = (target / "prepared.jsonl").read_text().splitlines()[1:]
    assert {json.loads(line)["source"] for line in lines} == {f"{number}.avi" for number in range(6)}


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("p", ["--crf", "52"], "--crf 52: must be from 0 to 51"),
        ("v/p", [], "must not lie in"),
        ("p", [], "too little space"),
    ],
)
def test_refusals(
    target: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_ucf101_avi(tmp_path / "v" / "a.avi")
    monkeypatch.setattr("fima.commands.prepare.estimate_bytes", lambda index, settings: 10**18)
    assert prepare(tmp_path / "v", tmp_path / target, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize(
    ("aspect", "degrees", "size"),
    [
        (Fraction(64, 45), 0, (86, 48)),  # 102.4 : 58, and 4,128 pixels; the source has 4,176
        (Fraction(1, 2), 0, (50, 82)),  # 36 : 58, 4,100 pixels
        (Fraction(64, 45), 90, (48, 86)),
        (Fraction(1), 0, (72, 58)),
        (Fraction(9, 1000), 0, (72, 58)),  # no player shows that: a damaged header
    ],
)
def test_pixels_become_square(aspect: Fraction, degrees: int, size: tuple[int, int], tmp_path: Path) -> None:
    write_anamorphic(tmp_path / "v" / "a.mp4", aspect, degrees)
    assert prepare(tmp_path / "v", tmp_path / "p") == 0
    with VideoReader(tmp_path / "p" / "a.mp4") as reader:
        assert (reader.width, reader.height) == size
        assert reader.pixel_aspect == 1
        white = (reader.read([3])[0].mean(axis=2) > 128).mean()
    assert white == pytest.approx(0.5, abs=0.02)


def test_a_frame_every_hour_stays_one(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "a.mkv", moving_square(4), codec="libx264", fps=Fraction(1, 3600))
    assert prepare(tmp_path / "v", tmp_path / "p") == 0
    with VideoReader(tmp_path / "p" / "a.mp4") as reader:
        assert reader.num_frames == 4
        assert reader.fps == pytest.approx(1 / 3600, rel=0.01)


def test_frames_with_packed_b_frames_are_evenly_spaced(tmp_path: Path) -> None:
    write_packed_avi(tmp_path / "v" / "a.avi")
    assert prepare(tmp_path / "v", tmp_path / "p") == 0
    with VideoReader(tmp_path / "p" / "a.mp4") as reader:
        times = reader.frame_times()
    assert times is not None
    assert times == pytest.approx(np.arange(25) / 25)


def test_sizes() -> None:
    assert target_size(720, 576, 256, 64 / 45) == (456, 256)
    assert target_size(1440, 1080, 540, 4 / 3) == (960, 540)
    assert target_size(340, 256, 256, 1024 / 765) == (394, 222)  # 16:9 in no more pixels than 340 · 256
    assert target_size(1920, 1080, 256) == (456, 256)
    assert target_size(1080, 1920, 256) == (256, 456)
    assert target_size(320, 240, 256) == (320, 240)
    assert target_size(45, 63, 256) == (44, 64)
    assert target_size(10000, 10, 256) == (10000, 10)
    assert target_size(1, 1, 256) == (2, 2)


def test_frames_longer_than_the_encoder_takes(tmp_path: Path) -> None:
    """They failed with "Generic error in an external library"."""
    assert target_size(30000, 1, 256) == (16384, 2)
    assert target_size(100, 40000, 256) == (40, 16384)
    path = write_video(tmp_path / "in/v.mkv", np.zeros((2, 2, 20000, 3), np.uint8), codec="ffv1")
    assert transcode(path, tmp_path / "v.mp4", TranscodeSettings()) == 2
