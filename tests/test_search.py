import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fima.cli import main
from fima.errors import DataError
from fima.use.page import search_page
from fima.use.search import ROWS_AT_ONCE, SearchIndex
from fima.use.table import read_embeddings, write_embeddings
from fima.visual.report.media import excerpt
from tests.browser import chromium
from tests.encoder_files import write_checkpoint
from tests.started import Started, print_to
from tests.test_frame_folders import pixels, write_pictures
from tests.video_files import write_ucf101_avi

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("centre", [True, False])
def test_search_is_exact(centre: bool) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.random((ROWS_AT_ONCE + 100, 6), dtype=np.float32)
    query = rng.random(6, dtype=np.float32)
    mean = vectors.astype(np.float64).mean(axis=0) * centre
    rows, asked = vectors - mean, query - mean
    cosines = rows @ asked / np.linalg.norm(rows, axis=1) / np.linalg.norm(asked)
    hits = SearchIndex(vectors, centre=centre).search(torch.from_numpy(query), 20)
    assert [hit.row for hit in hits] == np.argsort(-cosines)[:20].tolist()
    np.testing.assert_allclose([hit.similarity for hit in hits], np.sort(cosines)[::-1][:20], atol=1e-5)


@pytest.mark.parametrize("centre", [True, False])
def test_no_cosine_is_larger_than_1_and_rounding_is_no_direction(centre: bool) -> None:
    vectors = np.full((12, 512), 1 / 3, np.float32) + np.float32(1e-8) * np.arange(12, dtype=np.float32)[:, None]
    index = SearchIndex(vectors, centre=centre)
    assert [hit.similarity for hit in index.search(vectors[3], 12)] == pytest.approx([0 if centre else 1] * 12)
    assert index.all_equal is centre
    assert np.abs(SearchIndex(vectors, centre=centre).similarities(2 * vectors[0])).max() <= 1


def test_bad_vectors_are_refused() -> None:
    vectors = np.ones((3, 4), np.float32)
    vectors[1, 2] = np.nan
    with pytest.raises(DataError, match=r"1 of 3 vectors are not finite, such as row 1"):
        SearchIndex(vectors)


def test_small_and_even_indices() -> None:
    assert SearchIndex(np.ones((0, 4), np.float32)).search(torch.ones(4), 10) == []
    index = SearchIndex(np.ones((1, 4), np.float32))
    assert [(hit.row, hit.similarity) for hit in index.search(torch.ones(4), 10)] == [(0, 0.0)]
    assert index.all_equal, "which a person is told"
    assert not SearchIndex(np.ones((1, 4), np.float32), centre=False).all_equal
    read_only = np.eye(3, dtype=np.float32)
    read_only.setflags(write=False)
    assert SearchIndex(read_only).search(torch.tensor([0.0, 1.0, 0.0]), 1)[0].row == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of seconds, `index.npz`, its encoder and its videos."""
    folder = tmp_path_factory.mktemp("search")
    for seed in range(4):
        write_ucf101_avi(folder / "videos" / f"{seed}.avi", num_frames=50, seed=seed)
    checkpoint = write_checkpoint(folder / "last.pt")
    argv = ["embed", str(checkpoint), str(folder / "videos"), "-o", str(folder / "index.npz"), "--per", "second"]
    assert main([*argv, "--workers", "0", "--device", "cpu"]) == 0
    return folder


def test_the_command_finds_the_query_and_writes_a_page(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "page.html"
    argv = ["search", str(folder / "index.npz"), str(folder / "videos" / "2.avi"), "--device", "cpu"]
    capsys.readouterr()
    assert main([*argv, "-k", "2", "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [Path(hit["path"]).name for hit in found] == ["2.avi", "2.avi"]
    assert sorted(hit["start_seconds"] for hit in found) == [0.0, 1.0]
    assert found[0]["similarity"] >= found[1]["similarity"]
    text = page.read_text()
    assert text.count("<video") == 3
    assert text.count("data:video/mp4;base64,") == 3
    assert "http" not in text
    assert main(argv) == 0
    assert "8 vectors" in capsys.readouterr().out


def main_without_a_reader(words: list[str]) -> int:
    reading, writing = os.pipe()
    os.close(reading)
    print_to(writing)
    return main(words)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_reader_that_leaves_ends_the_search_quietly(words: list[str], folder: Path) -> None:
    search = ["search", str(folder / "index.npz"), str(folder / "videos" / "2.avi"), "--device", "cpu", *words]
    process = Started(main_without_a_reader, search)
    assert process.communicate() == ("", "")
    assert process.returncode == 141


def test_a_video_of_the_index_needs_neither_its_file_nor_pytorch(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    videos, index = tmp_path / "videos", tmp_path / "index.safetensors"
    shutil.copytree(folder / "videos", videos)
    argv = ["embed", str(folder / "last.pt"), str(videos), "-o", str(index), "--per", "clip"]
    assert main([*argv, "--workers", "0", "--device", "cpu"]) == 0
    capsys.readouterr()
    search = ["search", str(index), str(videos / "1.avi"), "-k", "3", "--json"]
    assert main([*search, "--encoder", str(folder / "last.pt"), "--device", "cpu"]) == 0
    embedded = json.loads(capsys.readouterr().out)
    (videos / "1.avi").unlink()
    code = f"import sys; from fima.cli import main; main({search!r}); print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known = json.loads(done.stdout)
    assert done.stderr == "False\n"
    assert [hit["start_seconds"] for hit in known] == [hit["start_seconds"] for hit in embedded]
    assert [hit["similarity"] for hit in known] == pytest.approx([hit["similarity"] for hit in embedded], abs=1e-5)


def test_a_video_is_known_from_any_folder(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the index was made with relative paths, and the encoder then needs to be found, too."""
    shutil.copytree(folder / "videos", tmp_path / "videos")
    shutil.copy(folder / "last.pt", tmp_path / "last.pt")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert main(["embed", "../last.pt", "../videos", "-o", "r.npz", "--workers", "0", "--device", "cpu"]) == 0
    monkeypatch.chdir(tmp_path)
    stored = read_embeddings(tmp_path / "sub/r.npz")
    assert stored.paths == [str(tmp_path / "videos" / f"{number}.avi") for number in range(4)]
    assert stored.about["source"] == str(tmp_path / "last.pt")
    for query in ("videos/1.avi", "sub/../videos/1.avi"):
        assert main(["search", "sub/r.npz", query, "-k", "1", "--device", "cpu"]) == 0
        assert "the query is one of its videos" in capsys.readouterr().out
    shutil.copy("videos/1.avi", "other.avi")
    assert main(["search", "sub/r.npz", "other.avi", "-k", "1", "--device", "cpu"]) == 0
    capsys.readouterr()
    # Another video by a name of the index is not the one that was embedded.
    shutil.copy("videos/2.avi", "videos/1.avi")
    later = (tmp_path / "sub/r.npz").stat().st_mtime + 10
    os.utime("videos/1.avi", (later, later))
    assert main(["search", "sub/r.npz", "videos/1.avi", "-k", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "is one of its videos" not in said
    assert str(tmp_path / "videos" / "2.avi") in said


def test_an_index_of_one_vector(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "videos").mkdir()
    query = shutil.copy(folder / "videos" / "1.avi", tmp_path / "videos")
    index = str(tmp_path / "one.npz")
    assert main(["embed", str(folder / "last.pt"), str(tmp_path / "videos"), "-o", index, "--device", "cpu"]) == 0
    assert main(["search", index, str(query), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "has one vector, so similarities" in said.err
    assert "\n1 vector: read in" in said.out


def test_an_index_of_seconds_has_other_clips_than_a_query(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """So the query is embedded, though a video of the index."""
    query = folder / "videos" / "3.avi"
    moved = tmp_path / "3.avi"
    query.rename(moved)
    try:
        assert main(["search", str(folder / "index.npz"), str(query), "--device", "cpu"]) == 2
    finally:
        moved.rename(query)
    assert "3.avi" in capsys.readouterr().err


def test_refusals(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    bare = replace(read_embeddings(folder / "index.npz"), about={})
    write_embeddings(tmp_path / "bare.npz", bare)
    whole = read_embeddings(folder / "index.npz")
    write_embeddings(tmp_path / "nan.npz", replace(whole, vectors=np.full_like(whole.vectors, np.nan)))
    write_embeddings(tmp_path / "few.npz", replace(whole, vectors=whole.vectors[:2]))
    other = write_checkpoint(tmp_path / "other.pt", seed=1)
    start = ["search", str(folder / "index.npz")]
    query = str(folder / "videos" / "2.avi")
    for argv, message in (
        ([*start, query, "--encoder", str(other)], "its weights are not those that"),
        ([*start, str(tmp_path / "none.avi")], "none.avi"),
        (["search", str(tmp_path / "none.npz"), query], "no such file of embeddings"),
        (["search", str(tmp_path / "bare.npz"), query], "does not say which encoder made it"),
        (["search", str(tmp_path / "nan.npz"), query], "nan.npz: 8 of 8 vectors are not finite"),
        (["search", str(tmp_path / "few.npz"), query], "few.npz: not a whole file of embeddings"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("fima: error: ")
        assert error.count("\n") == 1


def test_two_vectors_are_opposite_less_their_mean(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    index, query = str(tmp_path / "two.npz"), str(tmp_path / "videos" / "0.avi")
    for seed in (0, 1):
        write_ucf101_avi(tmp_path / "videos" / f"{seed}.avi", num_frames=20, seed=seed)
    argv = [str(folder / "last.pt"), str(tmp_path / "videos")]
    assert main(["embed", *argv, "-o", index, "--workers", "0", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["search", index, query, "--device", "cpu"]) == 0
    assert "two vectors less their mean are opposite, whatever is in them; try --no-centre" in capsys.readouterr().err
    assert main(["search", index, query, "--no-centre", "--device", "cpu"]) == 0
    assert not capsys.readouterr().err


def test_an_encoder_that_has_moved_is_asked_for(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    moved = tmp_path / "moved.pt"
    (folder / "last.pt").rename(moved)
    try:
        argv = ["search", str(folder / "index.npz"), str(folder / "videos" / "0.avi"), "--device", "cpu"]
        assert main(argv) == 2
        assert "--encoder" in capsys.readouterr().err
        assert main([*argv, "--encoder", str(moved)]) == 0
    finally:
        moved.rename(folder / "last.pt")


def test_nobody_is_told_to_unpickle_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "index.npz"
    index.write_bytes(b"no archive" * 50)
    assert main(["search", str(index), str(tmp_path / "query.avi")]) == 2
    message = capsys.readouterr().err
    assert "another kind of file, or damaged" in message
    assert "pickle" not in message


def hit(path: Path, end: float, similarity: float) -> dict[str, object]:
    return {"rank": 1, "similarity": similarity, "path": str(path), "start_seconds": 0.0, "end_seconds": end}


def test_a_moment_of_pictures_is_counted_by_the_rate_of_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "clip", *range(12))
    frames, fps = excerpt(folder, height=32, seconds=6, moment=(2.0, 3.0), frame_rate=2.0)
    np.testing.assert_array_equal(np.stack(frames), np.stack([pixels(4), pixels(5)]))
    assert fps == 2
    assert excerpt(folder, height=32, seconds=4)[1] == 0, "nobody knows"
    checkpoint = write_checkpoint(tmp_path / "last.pt")
    index, asked = tmp_path / "index.npz", dict[str, object]()
    argv = ["embed", str(checkpoint), str(folder), "-o", str(index), "--per", "second", "--frame-rate", "2"]
    assert main([*argv, "--workers", "0", "--device", "cpu"]) == 0
    monkeypatch.setattr("fima.use.page.search_page", lambda *_, **given: str(asked.update(given)))
    assert main(["search", str(index), str(folder), "--html", str(tmp_path / "page.html"), "--device", "cpu"]) == 0
    assert asked["frame_rate"] == 2


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_window_and_its_videos_play(width: int, tmp_path: Path) -> None:
    long = tmp_path / ("a_long_name_without_a_blank_" * 6 + ".avi")
    write_ucf101_avi(long, num_frames=30)
    page = tmp_path / "page.html"
    page.write_text(search_page(long, [hit(long, 1.0, 0.5)] * 3, title=f"Nearest to {long.name}"))
    with chromium(tmp_path / "profile") as browser:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        played = browser.execute_async_script(
            "const done = arguments[0]; const video = document.querySelectorAll('video')[3];"
            "video.ontimeupdate = () => video.currentTime > 0 && done(video.videoWidth); video.play().catch(done);"
        )
        assert played == 160
        assert not browser.get_log("browser")


def test_a_file_gets_whole_names(folder: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["search", str(folder / "index.npz"), str(folder / "videos" / "2.avi"), "--device", "cpu"]) == 0
    assert str((folder / "videos" / "2.avi").resolve()) in capsys.readouterr().out


def test_names_are_text_in_the_page_and_never_markup(tmp_path: Path) -> None:
    hostile = tmp_path / "<script>alert(1)<img src=x onerror=alert(2)>.avi"
    write_ucf101_avi(hostile.with_name("<b>real.avi"), num_frames=12)
    hits = [hit(hostile, 1.0, 0.5), hit(hostile.with_name("<b>real.avi"), 0.4, 0.4)]
    page = search_page(hostile, hits, title="<i>index")
    assert not re.findall(r"<(?:script|img|b|i)\b", page)
    assert page.count("&lt;script&gt;alert(1)") == 2
    assert page.count("<video") == page.count("&lt;b&gt;real.avi") == 1
