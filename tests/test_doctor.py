import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.stream import Disposition

from fima.cli import main
from fima.data.datasets import list_videos
from fima.data.decode.limits import DecodeLimits
from fima.data.quarantine import exclude, read_quarantine, write_quarantine
from fima.errors import DataError
from fima.library.doctor import why_missing
from tests.odd_videos import write_anamorphic
from tests.test_seeking import without_sync_table
from tests.test_streams import NONE as NO_MARK
from tests.test_streams import with_cover_first, write_streams
from tests.video_files import (
    damage,
    moving_square,
    truncate,
    write_audio_only,
    write_h264_mp4,
    write_ucf101_avi,
    write_video,
)


def doctor(*words: str | Path) -> int:
    return main(["doctor", "--workers", "1", *map(str, words)])


def test_a_good_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ucf101_avi(tmp_path / "v" / "a.avi", seed=1)
    write_h264_mp4(tmp_path / "v" / "b.mp4")
    assert doctor(tmp_path / "v") == 0
    output = capsys.readouterr().out
    assert "2 videos (videos without labels), 64 frames" in output
    assert "h264 1" in output
    assert "no problem; every video was checked by its header; --deep decodes it" in output
    assert doctor(tmp_path / "v", "--deep") == 0
    assert "every video was decoded to its end" in capsys.readouterr().out


def test_bars_fit_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "v" / "a.mp4", np.zeros((4, 72, 96, 3), dtype=np.uint8), codec="libx264")
    monkeypatch.setenv("COLUMNS", "40")
    assert doctor(tmp_path / "v") == 0
    bar = next(line for line in capsys.readouterr().out.splitlines() if "█" in line)
    assert bar == f"      0 to 1 s  {22 * '█'} 1"


def test_wide_frames_are_looked_at_in_the_middle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two people side by side: the centred square has half of each. A frame of 16:9 is common, and not named."""
    for name, width in (("pair", 176), ("usual", 128)):
        frames = np.zeros((4, 72, width, 3), dtype=np.uint8)
        write_video(tmp_path / "v" / f"{name}.mp4", frames, codec="libx264")
    assert doctor(tmp_path / "v") == 0
    output = capsys.readouterr().out
    assert "1 to look at:" in output
    assert "wide frames (1): evaluation looks at the centred square" in output
    assert "pair.mp4: 176x72" in output


def test_a_video_of_one_frame_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, length in (("still", 1), ("short", 2)):
        write_video(tmp_path / "v" / f"{name}.mp4", np.zeros((length, 72, 96, 3), dtype=np.uint8), codec="libx264")
    assert doctor(tmp_path / "v") == 0
    output = capsys.readouterr().out
    assert "one frame (1): a still picture" in output
    assert "still.mp4: its clips repeat it" in output


def test_damage_is_found_by_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "v"
    for name in ("a", "b", "c"):
        write_ucf101_avi(folder / f"{name}.avi", seed=ord(name))
    damage(folder / "b.avi", 0.6, 0.8)
    truncate(folder / "c.avi", 0.9)
    report, bad = tmp_path / "out" / "report.json", tmp_path / "out" / "bad.txt"
    assert doctor(folder) == 1
    output = capsys.readouterr().out
    assert "1 cannot be used" in output
    assert "--quarantine FILE, then `fima pretrain --data.exclude FILE`" in output
    assert doctor(folder, "--deep", "--json", report, "--quarantine", bad) == 1
    output = capsys.readouterr().out
    assert "2 cannot be used" in output
    assert "copy or download it again" in output
    assert "--quarantine FILE" not in output
    diagnosis = json.loads(report.read_text())
    assert {finding["path"]: finding["kind"] for finding in diagnosis["problems"]} == {
        "b.avi": "damaged",
        "c.avi": "truncated",
    }
    assert diagnosis["codecs"] == {"mpeg4": 1}
    videos = exclude(list_videos(folder, "all"), bad)
    assert [video.path.name for video in videos.videos] == ["a.avi"]
    assert "2 videos excluded" in videos.layout


def test_a_header_check_keeps_what_decoding_found(tmp_path: Path) -> None:
    damage(write_ucf101_avi(tmp_path / "v" / "a.avi"), 0.6, 0.8)
    assert [doctor(tmp_path / "v", *flags) for flags in ([], ["--deep"], [])] == [0, 1, 1]


@pytest.mark.parametrize("end_bytes", [100, 2**16])
def test_duplicates(
    end_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fima.library.doctor.END_BYTES", end_bytes)
    original = write_ucf101_avi(tmp_path / "v" / "a" / "1.avi")
    shutil.copy(original, tmp_path / "v" / "a" / "2.avi")
    other = tmp_path / "v" / "b" / "1.avi"
    other.parent.mkdir()
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    assert doctor(tmp_path / "v") == 0
    output = capsys.readouterr().out
    assert "duplicate (1):" in output
    assert "a/2.avi: same content as a/1.avi" in output
    assert "\nevery video was checked by its header" in output


def test_a_line_break_in_the_name_of_a_duplicate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = write_ucf101_avi(tmp_path / "v" / "a\nb.avi")
    shutil.copy(original, tmp_path / "v" / "c.avi")
    assert doctor(tmp_path / "v") == 0
    assert "c.avi: same content as a\\nb.avi" in capsys.readouterr().out


def test_what_is_not_there_and_broken_files_that_are_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ucf101_avi(tmp_path / "v" / "a.avi")
    for name in ("b.mp4", "c.mp4"):
        (tmp_path / "v" / name).write_text("no video")
    (tmp_path / "v" / "circle.mp4").symlink_to("circle.mp4")
    assert doctor(tmp_path / "v") == 1
    output = capsys.readouterr().out
    assert "not there (1): fix the link" in output
    assert "    circle.mp4: a link that leads nowhere" in output
    assert "cannot be opened (2): " in output
    assert "duplicate" not in output
    assert why_missing(tmp_path / "v") == "a folder that cannot be read"
    assert why_missing(tmp_path / "nothing") == "no such file"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["missing"], "missing: no such folder"), ([".", "--workers", "0"], "--workers 0: must be at least 1")],
)
def test_wrong_command_lines(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *words]) == 2
    assert message in capsys.readouterr().err


def test_lists_of_videos_hold_any_name(tmp_path: Path) -> None:
    names = {"a/b.avi", "line\nbreak.mp4", " blank.mp4", "#1.mp4", '"quoted".mp4', "not\udcffutf8.avi", "Straße.avi"}
    file = tmp_path / "list.txt"
    write_quarantine(file, names)
    assert read_quarantine(file) == names
    assert "Straße.avi\n" in file.read_text(encoding="utf-8")
    file.write_text("# comment\n\na.avi  \n", encoding="utf-8")
    assert read_quarantine(file) == {"a.avi"}


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    with pytest.raises(DataError, match=r"list\.txt: cannot be read"):
        read_quarantine(file)
    file.write_text('a.avi\n"b.avi\n')
    with pytest.raises(DataError, match=r"list\.txt, line 2"):
        read_quarantine(file)
    write_ucf101_avi(tmp_path / "v" / "a.avi")
    write_quarantine(file, ["a.avi"])
    videos = list_videos(tmp_path / "v", "all")
    with pytest.raises(DataError, match="excludes all 1 videos"):
        exclude(videos, file)
    write_quarantine(file, ["b.avi"])
    kept = exclude(videos, file)
    assert replace(kept, layout="", notes=[]) == replace(videos, layout="")
    assert kept.notes == [f"{file}: 1 of 1 entries name no video, such as 'b.avi'"]


def test_streams_aspects_and_key_frames_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, report = tmp_path / "v", tmp_path / "report.json"
    write_anamorphic(folder / "wide.mp4", Fraction(64, 45))
    with_cover_first(write_h264_mp4(folder / "cover.mp4"))
    write_streams(folder / "two.mp4", (moving_square(9), Disposition.default), (moving_square(9, 96, 128), NO_MARK))
    without_sync_table(write_video(folder / "keys.mp4", moving_square(40)))
    assert doctor(folder, "--deep", "--json", report) == 0
    found = json.loads(report.read_text())
    assert {(note["path"], note["kind"], note["reason"]) for note in found["notes"]} == {
        ("two.mp4", "several streams", "video stream 1 of 2, 64x48 is read"),
        ("wide.mp4", "pixels not square", "72x58, to be shown as 102x58"),
        ("keys.mp4", "key frames", "packets marked as key frames are not key frames"),
    }
    assert "`fima prepare` makes them square" in capsys.readouterr().out
    assert doctor(folder, "--json", report) == 0  # what decoding found is kept
    assert json.loads(report.read_text())["notes"] == found["notes"]


def test_frames_that_training_skips_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "report.json"
    write_h264_mp4(tmp_path / "v" / "a.mp4")  # 64x48
    for pixels, reasons in ((3072, []), (3071, ["64x48, above 3,071 pixels"])):
        monkeypatch.setattr("fima.library.doctor.USUAL_LIMITS", DecodeLimits(max_frame_pixels=pixels))
        assert doctor(tmp_path / "v", "--json", report) == 0
        assert [note["reason"] for note in json.loads(report.read_text())["notes"]] == reasons


def test_a_cover_alone_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v").mkdir()
    with_cover_first(write_audio_only(tmp_path / "v" / "a.m4v"))
    assert doctor(tmp_path / "v") == 1
    assert "no video stream (1): sound only" in capsys.readouterr().out
