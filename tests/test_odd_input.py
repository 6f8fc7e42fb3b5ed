import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fima.cli import main
from fima.config import DataConfig
from fima.data.datasets import list_videos
from fima.data.decode.header import read_header
from fima.data.decode.video import VideoReader
from fima.data.loader import build_pretrain_loader
from fima.errors import VideoError
from fima.library.transcode import TranscodeSettings, transcode
from tests.odd_videos import UNUSABLE, USABLE, write_matrix, write_rotated
from tests.test_datasets import folder_of_everybody, without_rights
from tests.video_files import decode_all, write_ucf101_avi, write_video

NOT_UTF8 = os.fsdecode(b"not\xffutf8.avi")


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A folder of odd files after `fima doctor --deep` and `fima prepare`."""

    source: Path
    prepared: Path
    exit_codes: tuple[int, int]
    diagnosis: dict[str, Any]
    output: str

    def kinds(self, name: str, what: str) -> list[str]:
        return [finding["kind"] for finding in self.diagnosis[what] if finding["path"] == name]


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Examined:
    folder = tmp_path_factory.mktemp("odd")
    source, prepared, report = folder / "videos", folder / "prepared", folder / "report.json"
    source.mkdir()
    for name, write in (USABLE | {name: write for name, (write, _) in UNUSABLE.items()}).items():
        write(source / name)
    write_ucf101_avi(source / "plain.avi").rename(source / NOT_UTF8)
    (source / "loop").symlink_to(source)
    (source / "nowhere.mp4").symlink_to(source / "nothing.mp4")
    flags = ["--deep", "--workers", "2", "--timeout", "60", "--json", str(report)]
    doctor = main(["doctor", str(source), *flags, "--quarantine", str(folder / "bad.txt")])
    prepare = main(["prepare", str(source), str(prepared), "--workers", "2", "--short-side", "16", "--gop", "4"])
    return Examined(
        source=source,
        prepared=prepared,
        exit_codes=(doctor, prepare),
        diagnosis=json.loads(report.read_text()),
        output=(folder / "bad.txt").read_text(),
    )


def test_every_file_is_accounted_for(examined: Examined) -> None:
    assert examined.exit_codes == (1, 1)
    assert examined.diagnosis["num_videos"] == len(USABLE) + 1 + len(UNUSABLE)
    problems = {Path(finding["path"]).name for finding in examined.diagnosis["problems"]}
    assert problems == {*UNUSABLE, "nowhere.mp4"}
    assert set(examined.output.splitlines()[1:]) == set(UNUSABLE)


@pytest.mark.parametrize("name", [*USABLE, NOT_UTF8], ids=ascii)
def test_odd_but_usable(name: str, examined: Examined) -> None:
    path = examined.source / name
    frames = decode_all(path)
    with VideoReader(path) as reader:
        np.testing.assert_array_equal(reader.read(range(reader.num_frames)), frames)
    assert read_header(path).num_frames == len(frames)
    assert examined.kinds(name, "problems") == []
    with VideoReader((examined.prepared / name).with_suffix(".mp4")) as reader:
        assert reader.num_frames == len(frames)
        assert reader.width % 2 == reader.height % 2 == 0


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable(name: str, examined: Examined) -> None:
    assert examined.kinds(name, "problems") == [UNUSABLE[name][1]]
    assert not (examined.prepared / name).with_suffix(".mp4").exists()
    with pytest.raises(VideoError, match=name), VideoReader(examined.source / name) as reader:
        reader.read(range(reader.num_frames))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rotated.mp4", "rotated"),
        ("mirrored.mp4", "rotated"),
        ("interlaced.mp4", "interlaced"),
        ("ten_bits.mkv", "pixel format"),
        ("gray.avi", "pixel format"),
        ("hdr.mp4", "HDR"),
        ("cut.mkv", "duration"),
        ("wide.mp4", "wide frames"),
    ],
)
def test_what_needs_care(name: str, kind: str, examined: Examined) -> None:
    assert examined.kinds(name, "notes") == [kind]
    plain = ("edit_list.mp4", "late_start.mkv", "late.ts", "packed.avi", "uneven.mkv")
    assert not any(examined.kinds(usual, "notes") for usual in plain)


def test_rotation_is_applied(examined: Examined, tmp_path: Path) -> None:
    for degrees in (90, 180, 270):
        turned = write_rotated(tmp_path / f"{degrees}.mp4", degrees)
        assert read_header(turned).rotation == 360 - degrees
    assert read_header(examined.prepared / "rotated.mp4").rotation == 0
    original, prepared = decode_all(examined.source / "rotated.mp4"), decode_all(examined.prepared / "rotated.mp4")
    assert prepared.shape == (12, 22, 16, 3)
    upright = np.rot90(original, axes=(1, 2))[:, ::2, ::2].mean(axis=(0, 3))
    small = prepared.mean(axis=(0, 3))
    rows = np.linspace(0, upright.shape[0] - 1, 22).round().astype(int)
    columns = np.linspace(0, upright.shape[1] - 1, 16).round().astype(int)
    upright = upright[rows][:, columns]
    assert np.corrcoef(upright.ravel(), small.ravel())[0, 1] > 0.9
    assert np.corrcoef(upright[::-1, ::-1].ravel(), small.ravel())[0, 1] < 0.5


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0), (0, 1, -1, 0)], ids=str)
def test_mirrored_videos_become_what_players_show(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path, rewritten = write_matrix(tmp_path / "v.mp4", *matrix), tmp_path / "w.mp4"
    a, b, c, d = matrix
    frames = decode_all(path).astype(int)
    shown = frames[:, ::d, ::a] if a else frames.swapaxes(1, 2)[:, ::b, ::c]
    transcode(path, rewritten, TranscodeSettings(crf=4))
    assert np.abs(decode_all(rewritten) - shown).mean() < 5
    assert read_header(path).mirrored == (a * d < b * c)
    assert not read_header(rewritten).mirrored


def test_uneven_times_are_kept(examined: Examined) -> None:
    before, after = read_header(examined.source / "uneven.mkv"), read_header(examined.prepared / "uneven.mp4")
    assert after.fps == pytest.approx(before.fps, rel=0.05)


def test_training_goes_on_over_all_of_it(examined: Examined) -> None:
    data = DataConfig(frames=2, crop_size=16, workers=0, max_skipped_share=1.0)
    loader = build_pretrain_loader(list_videos(examined.source), data, batch_size=8, seed=0)
    batches = list(loader)
    assert sum(len(batch.paths) for batch in batches) == examined.diagnosis["num_videos"]
    skipped = {Path(video.path).name for batch in batches for video in batch.skipped}
    assert skipped == set(UNUSABLE)


def test_a_file_without_permission() -> None:
    with folder_of_everybody() as root:
        path = write_ucf101_avi(root / "v.avi")
        assert read_header(path)
        with without_rights(path), pytest.raises(VideoError, match="Permission denied"):
            read_header(path)


def test_huge_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", np.zeros((2, 64, 64, 3), dtype=np.uint8), codec="libx264")
    monkeypatch.setattr("fima.data.decode.container.MAX_FRAME_PIXELS", 4000)
    with pytest.raises(VideoError, match="frames of 64x64, more than 4,000 pixels"):
        read_header(path)
