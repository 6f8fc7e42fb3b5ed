"""What `fima prepare` makes of a folder, as data: its tables, its test split, its names."""

from pathlib import Path

import pytest

from fima.data.datasets import list_videos
from fima.evaluate.splits import find_groups
from tests.test_frame_folders import write_pictures
from tests.test_prepare import prepare
from tests.video_files import write_h264_mp4, write_ucf101_avi


def test_a_table_is_one_of_the_rewritten_videos(tmp_path: Path) -> None:
    source, target = tmp_path / "v", tmp_path / "p"
    for name in ("x/1.avi", "x/2.avi", "x/2.mkv", "y/1.avi", "y/2.avi"):
        write_ucf101_avi(source / name, num_frames=6)
    write_h264_mp4(source / "y" / "3.mp4", num_frames=6)
    names = ("x/1.avi", "x/2.avi", "x/2.mkv", "y/1.avi", "y/2.avi", "y/3.mp4")
    rows = [f"{name},{name[0]},person {number}" for number, name in enumerate(names)]
    (source / "videos.csv").write_text("\n".join(["path,label,group", *rows]))
    assert prepare(source, target) == 0
    for data in (target, target / "videos.csv"):
        videos = list_videos(data, "all")
        found = {video.path.relative_to(target).as_posix(): video.label for video in videos.videos}
        assert found == {
            "x/1.mp4": 0, "x/2.avi.mp4": 0, "x/2.mkv.mp4": 0, "y/1.mp4": 1, "y/2.mp4": 1, "y/3.mp4": 1
        }  # fmt: skip
        groups = find_groups(data, videos, None)
        assert {path.name: name for path, name in groups.items()}["2.mkv.mp4"] == "person 2"


def test_a_folder_that_would_be_used_as_other_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "v", tmp_path / "p"
    for name in "ab":
        for number in range(10):
            write_ucf101_avi(source / name / f"{number}.avi", num_frames=6)
    (source / "a" / "1.avi").write_bytes(b"RIFF")
    (source / "mine.csv").write_text(f"path,label\n{source / 'a' / '0.avi'},a\n")
    assert prepare(source, target) == 1
    said = capsys.readouterr().err
    assert f"{target}: its test split is not that of {source}: 3 videos, such as a/4.mp4, in one of them" in said
    assert f"{target / 'mine.csv'}: names absolute paths, such as {source / 'a' / '0.avi'}, which still lead" in said
    (source / "a" / "1.avi").unlink()
    (source / "mine.csv").unlink()
    assert prepare(source, tmp_path / "q") == 0
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_one_series_of_pictures_has_its_name(tmp_path: Path) -> None:
    source, target = tmp_path / "wave.01", tmp_path / "p"
    write_pictures(source, *range(6))
    assert prepare(source, target) == 0
    assert [video.path for video in list_videos(target).videos] == [target / "wave.01.mp4"]
