import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fuzz_videos
import kill_resume
from fima.checkpoints.checkpoint import ClassifierCheckpoint, load_checkpoint, save_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.errors import CheckpointError, ConfigError, DataError, TrainingError
from fima.evaluate.classifier_result import ClassifierScores
from fima.files.jsonl import LineFile, keep_lines, read_lines
from fima.files.lock import FolderLock
from fima.library.windows import videos_of_epoch
from fima.train import pretrain as pretraining
from fima.train import task as saving
from fima.train.finetune import finetune
from fima.train.pretrain import pretrain
from tests.finetune_runs import changed
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS, make_videos, with_settings
from tests.started import Started
from tests.video_files import truncate

ONE_EPOCH = with_settings("optim", epochs=1)
OFTEN = with_settings("run", checkpoint_minutes=1e-9, health_epochs=0)


@pytest.fixture(scope="module")
def made(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, with a checkpoint inside it and one at its end; only to be read."""
    folder = tmp_path_factory.mktemp("made") / "run"
    pretrain(with_settings("optim", OFTEN, epochs=1), data=videos, out=folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    return RunFolder(Path(shutil.copytree(made, tmp_path / "run")))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    truncate(path, 0.5)


def remove(path: Path) -> None:
    path.unlink()


class TestCheckpoints:
    """What a damaged, altered or missing checkpoint does to a run."""

    @pytest.mark.parametrize("damage", [flip_a_bit, cut, remove])
    def test_the_one_before_is_used_aloud(
        self, damage: Callable[[Path], None], run: RunFolder, videos: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole = load_checkpoint(run.last)
        run.numbered(1).unlink()
        damage(run.last)
        pretrain(with_settings("optim", OFTEN, epochs=1), data=videos, out=run.root, resume=True)
        error = capsys.readouterr().err
        assert f"{run.last}: " in error
        assert f"GOING BACK TO {run.before_last(1)[0]}" in error
        again = load_checkpoint(run.last)
        assert again.progress == whole.progress
        assert all(torch.equal(value, whole.model[name]) for name, value in again.model.items())

    def test_where_none_can_be_read_the_run_is_refused(self, run: RunFolder, videos: Path) -> None:
        for path in run.checkpoint_folder.iterdir():
            cut(path)
        with pytest.raises(
            CheckpointError, match=r"last.pt: truncated.*last-1.pt.*epoch-001.pt.*no checkpoint of the run is left"
        ):
            pretrain(with_settings("optim", OFTEN, epochs=1), data=videos, out=run.root, resume=True)

    def test_the_last_few_are_kept(self, videos: Path, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        pretrain(with_settings("run", OFTEN, keep_last=3), data=videos, out=folder.root)
        steps = [load_checkpoint(path).progress.step for path in (folder.last, *folder.before_last(2))]
        assert steps == [4, 3, 2]
        assert not folder.before_last(3)[2].exists()

    def test_a_new_run_on_the_same_number_of_other_videos_is_refused(
        self, run: RunFolder, videos: Path, tmp_path: Path
    ) -> None:
        others = make_videos(tmp_path / "others")
        (others / "a" / "00.avi").rename(others / "a" / "new.avi")
        with pytest.raises(DataError, match=r"8 training videos, as in the run .* but not the same ones"):
            pretrain(with_settings("optim", OFTEN, epochs=2), data=others, out=run.root, resume=True)
        moved = Path(shutil.copytree(videos, tmp_path / "moved"))
        assert pretrain(OFTEN, data=moved, out=run.root, resume=True).progress.epoch == 2

    def test_what_has_changed_is_said(self, run: RunFolder, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = with_settings("data", OFTEN, max_skipped_share=0.5, keep_mb=1)
        pretrain(config, data=videos, out=run.root, resume=True)
        said = capsys.readouterr().out
        assert "--data.max-skipped-share 0.5 (before: 0.05), --data.keep-mb 1 (before: 0), --optim.epochs 2" in said
        wrong = with_settings("method", with_settings("optim", OFTEN, lr=1.0), temperature=0.5)
        with pytest.raises(ConfigError, match=r"--method.temperature 0.5: .* --optim.lr 1.0: .* drop the flags"):
            pretrain(wrong, data=videos, out=run.root, resume=True)

    def test_automatic_precision_stays_what_it_was(
        self, run: RunFolder, videos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fima.train.resolve.computes_in_bfloat16", lambda device: True)
        pretrain(with_settings("run", OFTEN, precision="auto"), data=videos, out=run.root, resume=True)
        assert load_checkpoint(run.last).config.run.precision == "fp32"

    def test_leftovers_of_interrupted_writes_are_removed(self, run: RunFolder, videos: Path) -> None:
        leftover = run.checkpoint_folder / ".last.12345.tmp.pt"
        leftover.write_bytes(b"half a checkpoint")
        pretrain(OFTEN, data=videos, out=run.root, resume=True)
        assert not leftover.exists()

    def test_two_processes_do_not_work_on_one_run(self, run: RunFolder, videos: Path) -> None:
        other = FolderLock(run.root)
        other.take()
        try:
            with pytest.raises(ConfigError, match="another process is at work"):
                pretrain(OFTEN, data=videos, out=run.root, resume=True)
        finally:
            other.release()
        assert pretrain(OFTEN, data=videos, out=run.root, resume=True).progress.epoch == 2

    @pytest.mark.parametrize("apart", [False, True])
    def test_a_new_run_does_not_take_over_the_folder_of_one_that_began_meanwhile(
        self, apart: bool, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints = tmp_path / "checkpoints" if apart else None
        first = RunFolder(tmp_path / "first", checkpoints)
        second = RunFolder(tmp_path / "second" if apart else first.root, checkpoints)

        def after_another_run(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            monkeypatch.undo()
            pretrain(ONE_EPOCH, data=videos, out=first.root, checkpoints=checkpoints)
            return videos_of_epoch(*arguments, **options)

        monkeypatch.setattr(pretraining, "videos_of_epoch", after_another_run)
        with pytest.raises(ConfigError, match=r"already holds (a run; continue it with --resume|those of a run)"):
            pretrain(with_settings("run", ONE_EPOCH, seed=1), data=videos, out=second.root, checkpoints=checkpoints)
        assert load_checkpoint(first.last).config.run.seed == first.read_config(type(ONE_EPOCH)).run.seed == 0

    def test_a_run_that_was_ended_before_it_had_written_anything_begins_again(
        self, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = RunFolder(tmp_path / "run")

        def end(*arguments: object) -> None:
            raise SystemError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "write_config", end)
            with pytest.raises(SystemError):
                pretrain(ONE_EPOCH, data=videos, out=run.root)
        assert pretrain(ONE_EPOCH, data=videos, out=run.root).progress.epoch == 1


def main_with_little_room(limit: int, words: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return main(words)


class TestFullDisk:
    """No file may grow beyond what is left."""

    def test_a_run_goes_on_aloud_and_is_not_called_finished(self, videos: Path, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run")
        pretrain(ONE_EPOCH, data=videos, out=run.root)
        before = run.last.read_bytes()
        words = ["pretrain", str(videos), "--out", str(run.root), *SMALL_FLAGS, "--optim.epochs", "2", "--auto-resume"]
        process = Started(main_with_little_room, len(before) // 2, words)
        _, said = process.communicate()
        assert process.returncode == 1, said
        assert "CHECKPOINT NOT WRITTEN" in said
        assert "File too large" in said
        assert "the end of the run is in no checkpoint" in said
        assert "Traceback" not in said
        assert run.last.read_bytes() == before
        assert main(["pretrain", str(videos), "--out", str(run.root), "--resume"]) == 0
        assert load_checkpoint(run.last).progress.epoch == 2
        steps = [line["step"] for line in read_lines(run.metrics) if line["kind"] == "step"]
        assert steps == [1, 2, 3, 4]

    def test_lines_that_cannot_be_written_are_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        complaints: list[str] = []
        file = LineFile(tmp_path / "lines.jsonl", complaints.append)
        file.append([{"step": 1}])
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full_disk)
            file.append([{"step": 2}])
            file.append([{"step": 3}])
        assert len(complaints) == 1
        file.append([{"step": 4}])
        assert [line["step"] for line in read_lines(file.path)] == [1, 2, 3, 4]

    def test_half_a_line_is_dropped_and_a_whole_one_ended(self, tmp_path: Path) -> None:
        path = tmp_path / "lines.jsonl"
        path.write_text('{"step": 1}\n{"step": 2}\n{"st')
        keep_lines(path, lambda line: True)
        LineFile(path, pytest.fail).append([{"step": 3}])
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def full_disk(*arguments: object, **options: object) -> None:
    raise OSError(28, "No space left on device")


class Command(Started):
    """A `python -m fima` command as `subprocess.Popen` starts it, but in a moment."""

    def __init__(self, words: Sequence[str], **streams: int) -> None:
        super().__init__(main, list(words[3:]))

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        """The exit code, after its end."""
        self.communicate(timeout)
        return self.returncode


def run_to_its_end(words: Sequence[str], *, check: bool, **streams: int) -> None:
    assert Command(words).wait(600) == 0 or not check


def test_a_run_that_is_killed_ends_as_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = SimpleNamespace(Popen=Command, run=run_to_its_end, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(kill_resume, "subprocess", stand_in)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that what the script sets is undone
    words = ["kill_resume.py", "--kills", "1", "--epochs", "6", "--videos", "20", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", words)
    code = kill_resume.main()
    said = capsys.readouterr().out
    assert code == 0, said
    assert "the same, bit for bit" in said


def test_a_run_that_cannot_save_its_end_says_so(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path, *arguments: object, **options: object) -> None:
        raise CheckpointError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(saving, "save_checkpoint", fail)
    with pytest.raises(TrainingError, match=r"in no checkpoint.*no checkpoint is written yet.*--resume"):
        pretrain(SMALL_CONFIG, data=videos, out=tmp_path / "run")
    # `last.pt` and `best.pt` after each of the two epochs, as no other was kept, and the numbered one at the end.
    assert capsys.readouterr().err.count("CHECKPOINT NOT WRITTEN") == 5


def test_an_epoch_that_cannot_be_kept_is_not_chosen(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tries = RunFolder(tmp_path / "run"), list[Path]()

    def full_at_first(path: Path, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        if path == run.best and not tries:
            tries.append(path)
            raise CheckpointError(f"{path}: cannot be written (No space left on device)")
        save_checkpoint(path, *arguments, **options)

    monkeypatch.setattr(saving, "save_checkpoint", full_at_first)
    monkeypatch.setattr(ClassifierScores, "top", lambda *arguments: 50.0)  # so that the first epoch is the best
    config = changed("classifier", select="validation", held_out_share=0.25)
    outcome = finetune(config, pretrained=None, data=videos, out=run.root)
    assert outcome.result is not None
    assert outcome.result.notes["finetune"]["epoch"] == 2
    best = load_checkpoint(run.best, ClassifierCheckpoint)
    assert best.progress.epoch == best.selection.epoch == 2


def fuzz_videos_with(*words: str) -> int:
    sys.argv = ["fuzz_videos.py", *words]
    return fuzz_videos.main()


def test_damaged_and_hostile_videos_stop_nothing() -> None:
    process = Started(fuzz_videos_with, "--videos", "80")  # one of its own: it measures its memory
    printed, said = process.communicate(900)
    assert process.returncode == 0, printed + said
    assert "not accounted for: none" in printed
