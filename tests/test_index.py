import multiprocessing
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fima.data.datasets import Video, list_videos
from fima.data.packed_lists import PackedVideos, PathTable
from fima.errors import DataError
from fima.library.index import VideoIndex, default_index_file, index_videos, load_index
from tests.video_files import write_h264_mp4, write_ucf101_avi


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    write_ucf101_avi(root / "a" / "one.avi", num_frames=12)
    write_h264_mp4(root / "b" / "two.mp4", num_frames=20)
    (root / "b" / "three.mp4").write_text("no video")
    return root


def index(root: Path, paths: Sequence[Path] | None = None, *, decode: bool = False) -> tuple[VideoIndex, int]:
    """The index, and how many files were read for it."""
    read = []
    videos = sorted(path for path in root.rglob("*") if path.is_file()) if paths is None else paths
    file = root.parent / "index.sqlite"
    made = index_videos(
        root, videos, file=file, workers=1, decode=decode, progress=lambda done, total: read.append(total)
    )
    return made, read[-1]


def test_headers(folder: Path) -> None:
    made, num_read = index(folder)
    assert num_read == 3
    assert list(made.paths) == ["a/one.avi", "b/three.mp4", "b/two.mp4"]
    assert made.num_frames.tolist() == [12, 0, 20]
    assert made.fps.tolist() == [25, 0, 25]
    assert (made.width.tolist(), made.height.tolist()) == ([48, 0, 64], [48, 0, 48])
    np.testing.assert_allclose(made.duration_seconds, [0.48, 0, 0.8], atol=1e-6)
    assert [made.names[code] for code in made.codec] == ["mpeg4", "", "h264"]
    assert list(made.problems) == [1]
    assert "cannot be opened" in made.problems[1]


def test_only_what_changed_is_read_again(folder: Path) -> None:
    index(folder)
    assert index(folder)[1] == 1  # the file with a problem: it may have been a problem of the machine
    (folder / "b" / "three.mp4").unlink()
    write_ucf101_avi(folder / "a" / "one.avi", num_frames=15)
    write_ucf101_avi(folder / "a" / "new.avi", num_frames=6)
    made, num_read = index(folder)
    assert num_read == 2
    assert list(made.paths) == ["a/new.avi", "a/one.avi", "b/two.mp4"]
    assert made.num_frames.tolist() == [6, 15, 20]
    assert index(folder)[1] == 0


def test_an_index_can_be_loaded_without_the_videos(folder: Path) -> None:
    file = folder.parent / "index.sqlite"
    with pytest.raises(DataError, match="no such index; `fima doctor"):
        load_index(folder, file)
    made, _ = index(folder)
    loaded = load_index(folder, file)
    assert list(loaded.paths) == list(made.paths)
    assert loaded.num_frames.tolist() == made.num_frames.tolist()


def test_decoding_is_remembered(folder: Path) -> None:
    assert index(folder)[1] == 3
    assert index(folder, decode=True)[1] == 3
    assert index(folder, decode=True)[1] == 0
    assert index(folder)[1] == 0


def test_an_interrupt_keeps_what_was_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fima.library.index_file.COMMIT_SECONDS", 0)
    monkeypatch.setattr("fima.library.index_file.HEADERS_AT_ONCE", 1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_videos(
            folder,
            [folder / "a" / "one.avi", folder / "b" / "two.mp4"],
            file=folder.parent / "index.sqlite",
            workers=1,
            progress=interrupt,
        )
    assert index(folder, [folder / "a" / "one.avi", folder / "b" / "two.mp4"])[1] == 1


def test_the_file_can_be_read_by_anything(folder: Path) -> None:
    index(folder)
    with sqlite3.connect(folder.parent / "index.sqlite") as database:
        rows = database.execute("SELECT path, num_frames, codec FROM videos ORDER BY path").fetchall()
    database.close()
    assert rows == [("a/one.avi", 12, "mpeg4"), ("b/three.mp4", None, None), ("b/two.mp4", 20, "h264")]


def test_packed_arrays_are_those_of_the_rows(folder: Path) -> None:
    made, _ = index(folder)
    file = folder.parent / "index.sqlite"

    def packed() -> list[str]:
        with closing(sqlite3.connect(file)) as database:
            return [name for (name,) in database.execute("SELECT name FROM packed")]

    def change(statement: str) -> None:
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(statement)

    assert "num_frames" in packed()
    loaded = load_index(folder, file)
    for name, value in vars(made).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, name), value)
    assert (loaded.names, loaded.problems, list(loaded.paths)) == (made.names, made.problems, list(made.paths))
    change("UPDATE videos SET num_frames = 7 WHERE path = 'a/one.avi'")
    assert packed() == []
    assert load_index(folder, file).num_frames.tolist() == [7, 0, 20]
    change("DELETE FROM videos WHERE path = 'b/three.mp4'")
    assert list(load_index(folder, file).paths) == ["a/one.avi", "b/two.mp4"]
    change(
        "INSERT INTO videos SELECT 'z.avi', size, mtime_ns, problem, decoded, num_frames, counted, fps, width, "
        "height, pixel_aspect, duration_seconds, codec, pixel_format, rotation, interlaced, chosen FROM videos LIMIT 1"
    )
    assert load_index(folder, file).num_frames.tolist() == [7, 20, 7]


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
    made, _ = index(folder)
    assert len(made) == 23
    assert sum(made.num_frames.tolist()) == 12 + 20 + 40


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


def test_default_place_is_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_index_file(tmp_path / "videos").parent == tmp_path / "cache" / "fima" / "index"
    assert default_index_file(tmp_path / "videos") != default_index_file(tmp_path / "other" / "videos")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_index_file(tmp_path).is_relative_to(Path.home() / ".cache")


def test_paths_and_videos_without_objects(folder: Path) -> None:
    names = [os.fsencode("Straße\n1"), b"not\xffutf8", b"", b"a/b"]
    table = PathTable(names)
    assert [os.fsencode(name) for name in table] == names
    assert table[-1] == "a/b"
    assert table[1:3] == [os.fsdecode(b"not\xffutf8"), ""]
    with pytest.raises(IndexError):
        table[4]
    videos = list_videos(folder, "all").videos
    packed = PackedVideos([*videos, Video(Path("z"), None)])
    assert list(packed) == [*videos, Video(Path("z"), None)]
    assert packed[-1].label is None
    assert packed[:2] == videos[:2]
