"""Places for results: tried before the work, left as they were where it cannot be done, and no data afterwards."""

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from fima.cli import main
from fima.data.datasets import list_videos
from fima.data.layouts.files import mark_picture
from fima.errors import ConfigError, DataError
from fima.files.atomic import written_whole
from fima.files.lock import FolderLock
from fima.files.output import OUTPUT_MARKER, check_writable, mark_output
from tests.encoder_files import write_checkpoint
from tests.small_runs import make_videos
from tests.test_datasets import names, touch
from tests.test_small_disk import MOUNT, unshare

COMMANDS = (
    "evaluate {disk}/run/checkpoints/last.pt {videos} --device cpu",
    "motion {video} --device cpu --out {disk}/motion.png",
    "finetune {model} {videos} --out {disk}/classifier",
    "prepare {videos} {disk}/small",
)
REASONS = {"full": "No space left on device", "read-only": "Read-only file system"}


def on_a_small_disk(root: Path, state: str) -> Iterator[tuple[str, str, int, str, bool]]:
    """The state and each command, its exit code, what it says, and whether the disk is as it was."""
    disk = root / state
    disk.mkdir()
    subprocess.run(["sh", "-c", MOUNT, "sh", str(disk)], check=True)
    (disk / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(root / "last.pt", disk / "run" / "checkpoints")
    if state == "full":
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    places = {"disk": disk, "model": root / "last.pt", "videos": root / "videos", "video": root / "videos/a/00.avi"}
    before = sorted(disk.rglob("*"))
    for command in COMMANDS:
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            code = main(command.format(**places).split())
        yield state, command, code, said.getvalue(), sorted(disk.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_one_line_before_the_work(tmp_path: Path) -> None:
    """Every state and command in one process: it takes seconds to start."""
    words = [*unshare(tmp_path), sys.executable, "-m", "tests.test_output_places", str(tmp_path)]
    write_checkpoint(tmp_path / "last.pt")
    # The videos cannot be decoded, so work that has begun would say so.
    for video in make_videos(tmp_path / "videos").rglob("*.avi"):
        video.write_bytes(b"no video")
    outcome = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert [(state, command) for state, command, *_ in found] == list(itertools.product(REASONS, COMMANDS))
    for state, command, code, said, unchanged in found:
        assert code == 2, (command, state, said)
        assert f"cannot be written ({REASONS[state]})" in said, command
        assert said.count("\n") == 1, (command, said)
        assert unchanged, (command, state)


def test_the_trial_leaves_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "file", "old.json")
    for place in ("new/deep/result.json", "old.json", ".", "result.png"):
        check_writable(tmp_path / place, flag="out")
    with pytest.raises(ConfigError, match=r"--out .*file/result.json: cannot be written \(Not a directory\)"):
        check_writable(tmp_path / "file/result.json", flag="out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "old.json"]


@pytest.mark.parametrize(
    "command",
    [
        "doctor {videos} --quarantine {place}",
        "doctor {videos} --json {place}",
        "doctor {videos} --index {place}",
        "doctor --system --json {place}",
        "convert {model} {place}.safetensors --encoder-only",
        "make-data motion-textures {place}",
        "make-encoder --out {place}",
        "demo --out {place}",
        "pretrain {videos} --out {place} --model.backbone tiny --run.device cpu",
        "pretrain {videos} --out {kept} --checkpoints {place} --model.backbone tiny --run.device cpu",
        "finetune {model} {videos} --out {place}",
        "finetune {model} {videos} --out {kept} --checkpoints {place}",
        "evaluate {model} {videos} --out {place}.json",
        "compare A={model} B={model} --on {videos} --out {place}.json",
        "embed {model} {videos} -o {place}.npz",
        "search {model} {videos} --html {place}.html",
        "predict {model} {videos} -o {place}.csv",
        "export {model} --format safetensors -o {place}.safetensors",
        "cam {model} {videos} --out {place}",
        "report {kept} -o {place}.html",
        "contact-sheet {videos} --out {place}.png",
        "prepare {videos} {place}",
    ],
)
def test_other_commands_try_the_place_first_too(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"videos/{name}/{number}.mp4" for name in ("jump", "run") for number in range(9)), "file")
    before = sorted(tmp_path.rglob("*"))
    words = {"videos": tmp_path / "videos", "model": tmp_path / "none.pt", "kept": tmp_path / "kept"}
    assert main(command.format(place=tmp_path / "file/x", **words).split()) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'file/x'}" in error
    assert "cannot be written (Not a directory)" in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("contact-sheet {videos} --out {place}/sheet", "must end in .png"),
        ("contact-sheet {videos} --out {place}/sheet.xyz", "must end in .png"),
        ("contact-sheet {videos} --out {place}/sheet.png --num-frames 0", "--num-frames 0: must be at least 1"),
        ("cam {model} {videos} --out {place}/maps.jpg", "name a folder, or one .png"),
        ("cam {model} {videos} --out {place}/maps.mp4", "name a folder, or one .png"),
    ],
)
def test_a_file_that_no_picture_can_be_is_refused_before_the_work(
    command: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "videos/a/1.mp4")
    before = sorted(tmp_path.rglob("*"))
    assert main(command.format(videos=tmp_path / "videos", model=tmp_path / "none.pt", place=tmp_path).split()) == 2
    assert reason in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "name", "reason"),
    [
        ("doctor {videos} --json {place}", "found.json", "is a folder"),
        ("doctor {videos} --quarantine {place}", "bad.txt", "is a folder"),
        ("doctor {videos} --index {place}", "index.sqlite", "is a folder"),
        ("search {model} {videos} --html {place}", "page.html", "is a folder"),
        ("predict {model} {videos} -o {place}", "classes.csv", "is a folder"),
        ("cam {model} {videos} --out {place}", "maps.png", "is a folder"),
        ("motion {videos}/a/1.mp4 --out {place}", "motion.png", "is a folder"),
        ("report {videos} -o {place}", "page.html", "is a folder"),
        ("contact-sheet {videos} --out {place}", "sheet.png", "is a folder"),
        ("convert {model} {place}", "model.pt", "is a folder"),
        ("cam {model} {videos} --out {place}", "old", "is a file; name a folder"),
    ],
)
def test_a_folder_for_a_file_is_refused_before_the_work(
    command: str, name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "videos/a/1.mp4", "old")
    place = tmp_path / name
    if reason == "is a folder":
        place.mkdir()
    words = command.format(videos=tmp_path / "videos", model=tmp_path / "none.pt", place=place).split()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{place}: {reason}" in error
    assert error.count("\n") == 1


def test_a_full_disk_behind_the_error_of_a_library(tmp_path: Path) -> None:
    said = r"a\.bin: cannot be written \(No space left on device\)"
    with pytest.raises(ConfigError, match=said), written_whole(tmp_path / "a.bin"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "works"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_without_modes_links_and_flushing(
    number: int, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.txt").write_text("old")
    for name in ("os.fsync", "os.chmod", "os.link", "pathlib.Path.chmod", "pathlib.Path.hardlink_to"):
        monkeypatch.setattr(name, fails)
    allowed = contextlib.nullcontext() if works else pytest.raises(ConfigError, match="Input/output error")
    with allowed:
        check_writable(tmp_path / "a.txt")
    with allowed, written_whole(tmp_path / "a.txt", backups=[tmp_path / "b.txt"]) as temporary:
        temporary.write_text("new")
    content = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert content == ({"a.txt": "new", "b.txt": "old"} if works else {"a.txt": "old"})


def test_a_working_directory_that_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gone").mkdir()
    with contextlib.chdir(tmp_path / "gone"):
        (tmp_path / "gone").rmdir()
        assert main(["doctor", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "fima: error: the working directory is gone; change to one that exists\n"


def test_an_error_of_the_disk_during_the_work_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "sheet.png"))

    monkeypatch.setattr("fima.visual.contact_sheet.contact_sheet", full)
    assert main(["contact-sheet", str(make_videos(tmp_path / "videos")), "--out", str(tmp_path / "sheet.png")]) == 2
    assert capsys.readouterr().err == (
        f"fima: error: {tmp_path / 'sheet.png'}: No space left on device; make room, change the permissions, "
        "or choose another place\n"
    )


def test_results_are_no_data(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4", "jump/2.mp4")
    mark_output(tmp_path / "cam", [])
    touch(tmp_path, "cam/1.mp4", "cam/deep/2.mp4", "cam/1.png")
    listed = list_videos(tmp_path, "all")
    assert names(listed) == ["jump/2.mp4", "run/1.mp4"]
    assert listed.classes == ["jump", "run"]
    assert listed.warnings() == [f"1 result of fima passed over (marked by {OUTPUT_MARKER}), such as cam"]
    assert len(list_videos(tmp_path / "cam").videos) == 2, "asked for by name, it is read"


ODD_NAMES = ["maps of 1.mp4", 'quoted "\n" name.mp4', os.fsdecode(b"\xff.mp4")]


def test_of_folders_with_files_of_others_only_the_results_are_no_data(tmp_path: Path) -> None:
    touch(tmp_path, "jump/a.mp4", "run/b.mp4", "run/notes.md")
    for _ in range(2):  # the same command again
        mark_output(tmp_path / "run", ODD_NAMES)
    touch(tmp_path, *(f"run/{name}" for name in ODD_NAMES))
    assert len((tmp_path / "run" / OUTPUT_MARKER).read_text().splitlines()) == 3
    listed = list_videos(tmp_path, "all")
    assert names(listed) == ["jump/a.mp4", "run/b.mp4"]
    assert "3 results of fima passed over" in "\n".join(listed.warnings())
    assert names(list_videos(tmp_path / "run", "all")) == ["b.mp4"], "also in the folder itself"


def test_a_torn_marker_is_not_of_the_whole_folder(tmp_path: Path) -> None:
    """A crash or a full disk may leave half a line."""
    touch(tmp_path, "run/mine.mp4", "run/maps.mp4")
    marker = tmp_path / "run" / OUTPUT_MARKER
    for content, left in (('"maps.mp4"\n"b.p', ["mine.mp4"]), ('"ma', ["maps.mp4", "mine.mp4"])):
        marker.write_text(content)
        assert names(list_videos(tmp_path / "run", "all")) == left
    mark_output(tmp_path / "run", ["maps.mp4"])
    assert names(list_videos(tmp_path / "run", "all")) == ["mine.mp4"]
    assert marker.read_text() == '"maps.mp4"\n'


def test_a_picture_with_the_name_of_a_frame_is_no_frame(tmp_path: Path) -> None:
    touch(tmp_path, "jump/a.mp4", "run/b.mp4", *(f"sheets/{number}.png" for number in (1, 2)), "map.png")
    assert len(list_videos(tmp_path / "sheets").videos) == 1, "two frames"
    for name in ("sheets/1.png", "sheets/2.png", "map.png"):
        mark_picture(tmp_path / name)
    with pytest.raises(DataError, match="holds results of fima only"):
        list_videos(tmp_path / "sheets")
    assert not (tmp_path / OUTPUT_MARKER).exists(), "nobody takes map.png for a frame"


@pytest.mark.parametrize("command", ["cam", "contact-sheet", "predict", "embed"])
def test_what_is_passed_over_is_said(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the work, which fails here at the first video."""
    videos = tmp_path / "videos"
    touch(videos, "jump/1.mp4", "run/2.avi", "run/2.txt", "run/2.log")
    model = write_checkpoint(tmp_path / "last.pt")
    monkeypatch.setattr("fima.checkpoints.classifier.load_classifier", lambda *_, **__: None)
    out = {"cam": "--out=maps", "contact-sheet": "--out=sheet.png", "predict": "-o=x.csv", "embed": "-o=x.npz"}[command]
    monkeypatch.chdir(tmp_path)
    given = [str(videos)] if command == "contact-sheet" else [str(model), str(videos), "--device", "cpu"]
    with contextlib.suppress(Exception):
        main([command, *given, out])
    assert "fima: warning: 2 files passed over: 1 .log, 1 .txt" in capsys.readouterr().err


def test_cam_in_a_folder_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = make_videos(tmp_path / "videos")
    before = names(list_videos(videos, "all"))
    monkeypatch.chdir(videos)
    model = write_checkpoint(tmp_path / "last.pt")
    assert main(["cam", str(model), str(videos / before[0]), "--device", "cpu", "--map", "rgb"]) == 0
    assert len(list((videos / "cam").glob("*.mp4"))) == 1
    assert names(list_videos(videos, "all")) == before
    (videos / "notes").mkdir()
    (videos / "notes/plan.md").touch()
    assert main(["cam", str(model), before[0], "--device", "cpu", "--map", "rgb", "--out", "notes"]) == 0
    assert len(list((videos / "notes").glob("*.mp4"))) == 1
    assert names(list_videos(videos, "all")) == before


@pytest.mark.parametrize("out", [".", "jump"])
def test_cam_writes_no_videos_among_those_of_others(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "videos/jump/1.mp4", "videos/run/2.avi")
    folder = tmp_path / "videos" / out
    assert main(["cam", str(tmp_path / "none.pt"), str(tmp_path / "videos"), "--out", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"fima: error: --out {folder}: has videos; results would be taken for data; choose a new folder\n"
    )


def test_tilde_after_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = make_videos(tmp_path / "videos")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["contact-sheet", str(videos), "--out=~/sheet.png"]) == 0
    assert (tmp_path / "home/sheet.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "~").exists()


def test_without_fcntl_there_is_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from pathlib import Path; from fima.files.lock import FolderLock; import fima.library.prepare\n"
        f"FolderLock(Path({str(tmp_path)!r})).take()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    FolderLock(tmp_path).take()


if __name__ == "__main__":
    print(json.dumps([tried for state in REASONS for tried in on_a_small_disk(Path(sys.argv[1]), state)]))
