import multiprocessing
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fima.data.datasets import Video, list_videos
from fima.data.layouts.video_list import PackedVideos
from fima.errors import DataError
from fima.library.index import default_index_file, open_index
from tests.test_frame_folders import write_pictures
from tests.video_files import write_h264_mp4, write_ucf101_avi


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    write_ucf101_avi(root / "a" / "one.avi", num_frames=12)
    write_h264_mp4(root / "b" / "two.mp4", num_frames=20)
    (root / "b" / "three.mp4").write_text("no video")
    return root


def index(root: Path, paths: Sequence[Path] | None = None, *, decode: bool = False) -> tuple[list[sqlite3.Row], int]:
    """The rows of the index by path, and how many files were read for it."""
    read = []
    videos = sorted(path for path in root.rglob("*") if path.is_file()) if paths is None else paths
    with open_index(root, root.parent / "index.sqlite") as opened:
        opened.update(videos, workers=1, decode=decode, progress=lambda done, total: read.append(total))
        return opened.database.execute("SELECT * FROM videos ORDER BY path").fetchall(), read[-1]


def column(rows: Sequence[sqlite3.Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def test_headers(folder: Path) -> None:
    rows, num_read = index(folder)
    assert num_read == 3
    assert column(rows, "path") == ["a/one.avi", "b/three.mp4", "b/two.mp4"]
    assert column(rows, "num_frames") == [12, None, 20]
    assert column(rows, "fps") == [25, None, 25]
    assert (column(rows, "width"), column(rows, "height")) == ([48, None, 64], [48, None, 48])
    assert column(rows, "duration_seconds") == [pytest.approx(0.48), None, pytest.approx(0.8)]
    assert column(rows, "codec") == ["mpeg4", None, "h264"]
    problems = column(rows, "problem")
    assert (problems[0], problems[2]) == (None, None)
    assert "cannot be opened" in problems[1]


def test_a_reason_that_names_a_picture_of_any_name(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "videos" / "clip", 1, 2, name=os.fsdecode(b"\xff{}.png"))
    for number, decode in ((2, True), (1, False)):
        (folder / os.fsdecode(b"\xff%d.png" % number)).write_bytes(b"no picture")
        rows, _ = index(tmp_path / "videos", [folder], decode=decode)
        assert rf"\udcff{number}.png" in column(rows, "problem")[0]


def test_a_folder_with_a_long_name_has_an_index(tmp_path: Path) -> None:
    for name in ("x" * 250, "ü" * 120):
        root = tmp_path / name
        write_ucf101_avi(root / "a.avi", num_frames=3)
        with open_index(root) as opened:
            opened.update([root / "a.avi"], workers=1)
            assert opened.lengths() == {"a.avi": (3, 25)}


def test_only_what_changed_is_read_again(folder: Path) -> None:
    index(folder)
    assert index(folder)[1] == 1  # the file with a problem: it may have been a problem of the machine
    (folder / "b" / "three.mp4").unlink()
    write_ucf101_avi(folder / "a" / "one.avi", num_frames=15)
    write_ucf101_avi(folder / "a" / "new.avi", num_frames=6)
    rows, num_read = index(folder)
    assert num_read == 2
    assert column(rows, "path") == ["a/new.avi", "a/one.avi", "b/two.mp4"]
    assert column(rows, "num_frames") == [6, 15, 20]
    assert index(folder)[1] == 0


def test_decoding_is_remembered(folder: Path) -> None:
    assert index(folder)[1] == 3
    assert index(folder, decode=True)[1] == 3
    assert index(folder, decode=True)[1] == 0
    assert index(folder)[1] == 0


def test_an_interrupt_keeps_what_was_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fima.library.index.COMMIT_SECONDS", 0)
    monkeypatch.setattr("fima.library.index.HEADERS_AT_ONCE", 1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_index(folder, folder.parent / "index.sqlite") as opened:
        opened.update([folder / "a" / "one.avi", folder / "b" / "two.mp4"], workers=1, progress=interrupt)
    assert index(folder, [folder / "a" / "one.avi", folder / "b" / "two.mp4"])[1] == 1


def test_the_file_can_be_read_by_anything(folder: Path) -> None:
    index(folder)
    with sqlite3.connect(folder.parent / "index.sqlite") as database:
        rows = database.execute("SELECT path, num_frames, codec FROM videos ORDER BY path").fetchall()
    database.close()
    assert rows == [("a/one.avi", 12, "mpeg4"), ("b/three.mp4", None, None), ("b/two.mp4", 20, "h264")]


def index_in_another_process(root: Path) -> None:
    index(root)


def test_two_processes_at_once(folder: Path) -> None:
    for number in range(20):
        write_ucf101_avi(folder / "c" / f"{number}.avi", num_frames=2)
    context = multiprocessing.get_context("forkserver")
    others = [context.Process(target=index_in_another_process, args=(folder,)) for _ in range(2)]
    for other in others:
        other.start()
    index(folder)
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    rows, _ = index(folder)
    assert len(rows) == 23
    assert sum(row["num_frames"] or 0 for row in rows) == 12 + 20 + 40


def test_a_file_of_another_kind(folder: Path) -> None:
    file = folder.parent / "index.sqlite"
    file.write_text("no database " * 100)
    with pytest.raises(DataError, match=r"index\.sqlite: cannot be used as an index .*--index"):
        index(folder)
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    with pytest.raises(DataError, match="database of another program"):
        index(folder)


def test_an_index_of_an_earlier_version_is_made_anew(folder: Path) -> None:
    index(folder)
    with closing(sqlite3.connect(folder.parent / "index.sqlite")) as database, database:
        database.execute("PRAGMA user_version = 1")
        database.execute("CREATE TABLE packed (name, npy)")
    assert index(folder)[1] == 3
    with closing(sqlite3.connect(folder.parent / "index.sqlite")) as database:
        assert database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("videos",)]


def test_default_place_is_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_index_file(tmp_path / "videos").parent == tmp_path / "cache" / "fima" / "index"
    assert default_index_file(tmp_path / "videos") != default_index_file(tmp_path / "other" / "videos")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_index_file(tmp_path).is_relative_to(Path.home() / ".cache")


def test_paths_and_videos_without_objects(folder: Path) -> None:
    names = [Path("Straße\n1"), Path(os.fsdecode(b"not\xffutf8")), Path("a/b")]
    videos = [*list_videos(folder, "all").videos, *(Video(name, 2) for name in names)]
    packed = PackedVideos([*videos, Video(Path("z"), None)])
    assert list(packed) == [*videos, Video(Path("z"), None)]
    with pytest.raises(IndexError):
        packed[len(packed)]
    assert packed[-1].label is None
    assert packed[:2] == videos[:2]
