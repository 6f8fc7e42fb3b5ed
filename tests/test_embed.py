import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import fima
from fima.cli import main
from fima.data.decode.video import VideoReader
from fima.data.eval_clips import ClipSettings, cut_clips, square_crops
from fima.data.loader import SkippedVideo
from fima.errors import ConfigError, DataError
from fima.evaluate import feature_store
from fima.evaluate.extract import Resources, VideoRows, WindowDataset, extract_rows
from fima.torch_tools import distributed
from fima.use.table import Embeddings, check_names, read_embeddings, write_embeddings
from tests.encoder_files import small_encoder, write_checkpoint
from tests.evaluation_data import write_state_dict
from tests.gloo import run_processes
from tests.video_files import damage, moving_square, write_h264_mp4, write_ucf101_avi, write_video

Capture = pytest.CaptureFixture[str]
FORMATS = ("npz", "safetensors", "parquet")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_ucf101_avi(folder / "a.avi", num_frames=60)
    write_h264_mp4(folder / "b.mp4", num_frames=40)
    write_ucf101_avi(folder / "short.avi", num_frames=3)
    return folder


def embedded(out: Path, *argv: object) -> Embeddings:
    assert main(["embed", *map(str, argv), "-o", str(out), "--device", "cpu", "--workers", "0"]) == 0
    return read_embeddings(out)


def encoded(checkpoint: Path, path: Path, numbers: range) -> npt.NDArray[np.float32]:
    """The vector of some frames of a video, by hand."""
    encoder = fima.load(checkpoint)
    with VideoReader(path) as reader, torch.no_grad():
        frames = torch.from_numpy(reader.read(numbers)).permute(0, 3, 1, 2)
        vector: npt.NDArray[np.float32] = encoder(encoder.transform(frames)[None])[0].numpy()
    return vector


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_holds_the_same(suffix: str, checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
    found = embedded(tmp_path / f"out.{suffix}", checkpoint, videos, "--per", "clip", "--clips", "3")
    paths = [videos / name for name in ("a.avi", "b.mp4", "short.avi")]
    assert found.paths == [str(path) for path in paths]
    assert found.video.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.path(4) == str(paths[1])
    expected = fima.load(checkpoint).embed(paths, clips=3, per="clip").flatten(0, 1)
    np.testing.assert_allclose(found.vectors, expected.numpy(), atol=1e-5)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.seconds[:3], [[0, 8 / 25], [26 / 25, 34 / 25], [52 / 25, 60 / 25]])
    assert found.about["per"] == "clip"
    assert found.about["source"] == str(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == [f"out.{suffix}"]


def test_a_row_for_each_video_or_second(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    whole = embedded(tmp_path / "video.npz", checkpoint, videos)
    assert whole.seconds.round(2).tolist() == [[0, 2.4], [0, 1.6], [0, 0.12]]
    seconds = embedded(tmp_path / "second.npz", checkpoint, videos, "--per", "second")
    assert seconds.seconds.round(2).tolist() == [[0, 1], [1, 2], [2, 2.4], [0, 1], [1, 1.6], [0, 0.12]]
    middle = encoded(checkpoint, videos / "a.avi", range(34, 42, 2))
    np.testing.assert_allclose(seconds.vectors[1], middle, atol=1e-5)


@pytest.mark.parametrize("crops", [1, 3])
def test_seconds_in_one_pass_are_the_clips_read_one_by_one(crops: int, tmp_path: Path) -> None:
    """More clips than are held at a time, overlapping ones, and a window that is longer than the video."""
    path = write_ucf101_avi(tmp_path / "long.avi", num_frames=25 * 11 + 7)
    for frames in (4, 20, 200):
        settings = ClipSettings(frames=frames, crop_size=16, num_crops=3 if crops == 3 else 1)
        chunks = list(WindowDataset([path], settings, per_second=True))
        shown = [chunk for chunk in chunks if not isinstance(chunk, SkippedVideo)]
        clips = torch.cat([chunk.clips.repeat_interleave(chunk.copies, dim=0) for chunk in shown])
        assert clips.shape == (12, crops, 3, frames, 16, 16)
        spans = [(second, min(second + 1, 282 / 25)) for second in range(12)]
        starts = [min(max(0, 282 - 2 * frames), max(0, round((begin + end) / 2 * 25) - frames)) for begin, end in spans]
        with VideoReader(path) as reader:
            places = square_crops(reader.width, reader.height, settings.num_crops)
            window = settings.timing.window(reader, frames)
            expected = cut_clips(reader, window, starts, places, crop_size=16)
        assert torch.equal(clips.flatten(0, 1), expected)


def test_an_interrupted_call_is_continued(
    checkpoint: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out, model = tmp_path / "out.npz", Path(shutil.copy(checkpoint, tmp_path / "model.pt"))
    videos = Path(shutil.copytree(videos, tmp_path / "videos"))
    real = extract_rows
    asked = []

    def interrupted(paths: list[Path], *args: object, **options: object) -> Iterator[object]:
        asked.append(len(paths))
        yield from list(real(paths, *args, **options))[:2]  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_store, "extract_rows", interrupted)
    argv = ["embed", str(model), str(videos), "-o", str(out), "--device", "cpu", "--workers", "0", "--json"]
    assert main(argv) == 130
    assert "the videos that are finished stay; repeat the command to go on" in capsys.readouterr().err
    assert not out.exists()
    assert main([*argv, "--clips", "2"]) == 130  # other settings use nothing of it
    write_checkpoint(model, seed=1)
    assert main(argv) == 130  # nor do other weights in the same file
    shutil.copy(checkpoint, model)
    write_ucf101_avi(videos / "a.avi", num_frames=50, seed=3)  # nor is another video of the same name known
    monkeypatch.setattr(feature_store, "extract_rows", real)
    capsys.readouterr()
    assert main(argv) == 0
    record = json.loads(capsys.readouterr().out)
    assert asked == [3, 3, 3]
    assert (record["num_videos"], record["num_continued"], record["num_rows"]) == (3, 1, 3)
    expected = fima.load(checkpoint).embed(sorted(videos.iterdir()))
    np.testing.assert_allclose(read_embeddings(out).vectors, expected.numpy(), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "out.npz", "videos"]


def embed_in_process(_: int, words: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "shutdown", lambda: None)
        return main(words)


def test_two_processes_write_the_file_of_one(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    words = ["--per", "clip", "--clips", "3"]
    alone = embedded(tmp_path / "alone.npz", checkpoint, videos, *words)
    out = ["-o", str(tmp_path / "both.npz"), "--device", "cpu", "--workers", "0"]
    argv = ["embed", str(checkpoint), str(videos), *words, *out]
    assert run_processes(embed_in_process, 2, tmp_path / "gloo", argv) == [0, 0]
    both = read_embeddings(tmp_path / "both.npz")
    assert (both.paths, both.video.tolist()) == (alone.paths, alone.video.tolist())
    np.testing.assert_allclose(both.vectors, alone.vectors, atol=1e-5)
    np.testing.assert_array_equal(both.seconds, alone.seconds)


def test_videos_that_cannot_be_decoded_are_named(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "videos"
    write_ucf101_avi(folder / "good.avi", num_frames=20)
    (folder / "bad.avi").write_bytes(b"no video")
    # Damaged near its end, when clips before it are on their way already.
    late = write_video(folder / "late.mp4", moving_square(300), codec="libx264", gop_frames=10)
    damage(late, 0.8, 0.9)
    found = embedded(tmp_path / "out.npz", checkpoint, folder, "--per", "second")
    assert found.paths == [str(folder / "good.avi")]
    lines = [json.loads(line) for line in (tmp_path / "out.npz.skipped.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["bad.avi", "late.mp4"]
    (folder / "good.avi").unlink()
    late.unlink()
    assert main(["embed", str(checkpoint), str(folder), "-o", str(tmp_path / "none.npz"), "--workers", "0"]) == 2
    assert "none of 1 videos can be decoded" in capsys.readouterr().err


def test_what_an_earlier_call_has_skipped_is_not_told_again(checkpoint: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out.npz"
    write_ucf101_avi(folder / "good.avi", num_frames=20)
    (folder / "bad.avi").write_bytes(b"no video")
    embedded(out, checkpoint, folder)
    (folder / "bad.avi").unlink()
    out.unlink()
    embedded(out, checkpoint, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "videos"]


def test_names_that_parquet_cannot_hold_are_refused_before_the_work(tmp_path: Path) -> None:
    odd = [Path("/a.avi"), Path(os.fsdecode(b"/\xff.avi"))]
    check_names(tmp_path / "out.npz", odd)
    check_names(tmp_path / "out.parquet", odd[:1])
    with pytest.raises(ConfigError, match=r"-o .*out.parquet: Parquet takes no such name as /\\udcff.avi; write .npz"):
        check_names(tmp_path / "out.parquet", odd)


def test_clips_of_another_size_and_timing(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    words = ["--per", "clip", "--clips", "2", "--frames", "3", "--stride", "4"]
    found = embedded(tmp_path / "out.npz", checkpoint, videos / "a.avi", *words)
    np.testing.assert_allclose(found.seconds, [[0, 12 / 25], [48 / 25, 60 / 25]])
    last = encoded(checkpoint, videos / "a.avi", range(48, 60, 4))
    np.testing.assert_allclose(found.vectors[1], last, atol=1e-5)


def test_clips_that_the_file_does_not_say_are_said_aloud(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["--clips", "1", "--frames", "4", "--crop-size", "32"]
    embedded(tmp_path / "known.npz", checkpoint, videos / "a.avi", *words)
    assert "does not say" not in capsys.readouterr().err
    embedded(tmp_path / "unknown.npz", write_state_dict(tmp_path / "bare.pt"), videos / "a.avi", *words)
    assert (
        "does not say which clips it was trained on; it is shown 4 frames of 32 px, stride 2" in capsys.readouterr().err
    )


def test_a_single_video_and_a_table(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    assert embedded(tmp_path / "one.npz", checkpoint, videos / "a.avi").paths == [str(videos / "a.avi")]
    table = tmp_path / "list.csv"
    table.write_text(f"path,label,split\n{videos / 'a.avi'},x,train\n{videos / 'b.mp4'},y,test\n")
    told = ["--annotations", table]
    words = ["--split", "test"]
    assert embedded(tmp_path / "test.npz", checkpoint, "/", *told, *words).paths == [str(videos / "b.mp4")]
    assert embedded(tmp_path / "table.npz", checkpoint, table, *words).paths == [str(videos / "b.mp4")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "x.txt"], "must end in one of"),
        (["-o", "there.npz"], "already exists"),
        (["-o", "x.npz", "--clips", "0"], "--clips 0: must be at least 1"),
        (["-o", "x.npz", "--crop-size", "4"], "must be at least 8"),
        (["-o", "x.npz", "--fps", "5", "--stride", "2"], "--stride and --fps: both say how far apart"),
        (["-o", "x.npz", "--span", "0.5", "--per", "second"], "--span 0.5: a clip of --per second covers"),
        (["-o", "x.npz", "--frame-rate", "-1"], "--frame-rate -1: must be 0 or more"),
        (["-o", "x.npz", "--device", "tpu"], "--device tpu"),
    ],
)
def test_refusals(
    words: list[str],
    message: str,
    checkpoint: Path,
    videos: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").touch()
    assert main(["embed", str(checkpoint), str(videos), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fima: error: ")
    assert error.count("\n") == 1


def test_files_that_are_no_embeddings_are_refused(tmp_path: Path) -> None:
    for name in ("a.npz", "a.safetensors", "a.parquet"):
        path = tmp_path / name
        with pytest.raises(DataError, match="no such file of embeddings"):
            read_embeddings(path)
        for content in (b"something else", b""):
            path.write_bytes(content)
            with pytest.raises((DataError, ConfigError), match=r"not a whole file of embeddings|pyarrow"):
                read_embeddings(path)
    whole = Embeddings(
        vectors=np.zeros((1, 2), np.float32),
        seconds=np.zeros((1, 2)),
        video=np.zeros(1, np.int64),
        paths=["a"],
        about={},
    )
    write_embeddings(tmp_path / "b.npz", whole)
    content = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a whole file"):
        read_embeddings(tmp_path / "b.npz")


def test_clips_that_the_encoder_cannot_take_are_refused(videos: Path, tmp_path: Path, capsys: Capture) -> None:
    saved = tmp_path / "s3d"
    fima.VideoEncoder(backbone="s3d", frames=4, crop_size=32).save_pretrained(saved)
    assert main(["embed", str(saved), str(videos), "-o", str(tmp_path / "x.npz"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "--frames 4 --crop-size 32: " in error
    assert "s3d takes no such clips" in error


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_others_may_read_what_is_written(suffix: str, tmp_path: Path) -> None:
    """As any file that is written here: the safetensors library writes for the owner alone."""
    found = Embeddings(
        vectors=np.ones((2, 3), np.float32),
        seconds=np.zeros((2, 2)),
        video=np.zeros(2, np.int64),
        paths=["/a.mp4"],
        about={},
    )
    written, usual = tmp_path / f"a{suffix}", tmp_path / "usual"
    write_embeddings(written, found)
    usual.touch()
    assert written.stat().st_mode == usual.stat().st_mode
    assert np.array_equal(read_embeddings(written).vectors, found.vectors)


def test_clips_that_are_all_the_same_are_encoded_once(tmp_path: Path) -> None:
    """A video shorter than a clip, and one of which each clip shows the whole; the third has three clips."""
    paths = [
        write_ucf101_avi(tmp_path / f"{number}.avi", num_frames=frames, seed=number)
        for number, frames in enumerate((7, 30))
    ]
    network, encoded = small_encoder().vectors, []

    def counted(clips: Tensor) -> Tensor:
        encoded.append(len(clips))
        return network(clips)

    def rows(span: float) -> list[VideoRows]:
        settings = ClipSettings(frames=4, crop_size=32, num_clips=3, span=span)
        return [item for item in extract_rows(paths, counted, settings, Resources()) if isinstance(item, VideoRows)]

    short, long = rows(0.0)
    assert sum(encoded) == 1 + 3
    assert short.rows.shape == long.rows.shape == (3, 1, short.rows.shape[-1])
    assert torch.equal(short.rows, short.rows[:1].expand(3, -1, -1))
    assert not torch.allclose(long.rows[0], long.rows[1], atol=1e-4)
    assert short.seconds.tolist() == [[0.0, 7 / 25]] * 3
    encoded.clear()
    assert all(torch.equal(video.rows[0], video.rows[2]) for video in rows(1.0))
    assert sum(encoded) == 2
