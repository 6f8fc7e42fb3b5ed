import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fima
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.commands import COMMANDS
from fima.commands.output import show_next
from fima.config import PretrainConfig
from fima.errors import TrainingError
from fima.recipe import read_recipe
from fima.train.task import TrainingResult
from tests.closed_pipe import output_into_closed_pipe
from tests.small_runs import SMALL_CONFIG, SMALL_FLAGS, make_videos, read_lines
from tests.started import Started

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> RunFolder:
    """A finished run of two epochs, made by the command itself."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    assert main(["pretrain", str(videos), "--out", str(folder.root), *SMALL_FLAGS]) == 0
    return folder


def refused(argv: list[str], capsys: Capture, code: int = 2) -> str:
    """Run a command that must fail with one line; return the line."""
    assert main(argv) == code
    error = capsys.readouterr().err.strip()
    assert error.startswith("fima: error: ")
    assert "\n" not in error
    return error


def test_version_help_and_unknown_commands(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"fima {fima.__version__}"
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(name in page for name in COMMANDS)
    assert main([]) == 2
    capsys.readouterr()
    assert "unknown command `pretrian`; did you mean `pretrain`?" in refused(["pretrian"], capsys)
    assert "choose from benchmark, cam, compare, completion, contact-sheet" in refused(["xyzzy"], capsys)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_each_command_has_help(command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    assert main([*command.split(), "--help"]) == 0
    page = capsys.readouterr().out
    assert f"fima {command}" in page
    assert max(map(len, page.splitlines())) <= 64, "a narrow terminal would break words in the middle"


def test_pretrain_resolves_its_flags(run: RunFolder) -> None:
    assert read_recipe(run.config) == SMALL_CONFIG
    assert run.last.exists()


class TestPretrainSettings:
    """Which settings a command line stands for; the training itself is not run."""

    @pytest.fixture(autouse=True)
    def _record(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[PretrainConfig] = []

        def fake_pretrain(config: PretrainConfig, **paths: object) -> TrainingResult:
            self.seen.append(config)
            raise TrainingError("not run")

        monkeypatch.setattr("fima.train.pretrain.pretrain", fake_pretrain)

    def parse(self, folder: Path, *words: str, recipe: str | None = None) -> PretrainConfig:
        argv = ["pretrain", "DATA", "--out", str(folder / "run"), *words]
        if recipe is not None:
            (folder / "recipe.yaml").write_text(recipe)
            argv.insert(2, str(folder / "recipe.yaml"))
        assert main(argv) == 1
        return self.seen[-1]

    def test_without_flags_they_are_the_papers(self, tmp_path: Path) -> None:
        assert self.parse(tmp_path) == PretrainConfig()

    def test_flags_go_before_the_recipe(self, tmp_path: Path) -> None:
        text = "optim: {lr: 0.5, epochs: 9}\nmethod: {name: moco}"
        config = self.parse(tmp_path, "--optim.lr", "0.25", recipe=text)
        assert (config.optim.lr, config.optim.epochs, config.method.name) == (0.25, 9, "moco")

    def test_a_flag_may_need_the_recipe_to_make_sense(self, tmp_path: Path) -> None:
        text = "optim: {schedule: step, milestones: [60]}"
        config = self.parse(tmp_path, "--optim.milestones", "3", "5", recipe=text)
        assert (config.optim.schedule, config.optim.milestones) == ("step", (3, 5))

    def test_switches(self, tmp_path: Path) -> None:
        assert self.parse(tmp_path, "--method.no-decoder").method.decoder is False
        assert self.parse(tmp_path, "--method.decoder", recipe="method: {decoder: false}").method.decoder is True

    def test_a_resumed_run_keeps_its_settings_without_repeating_them(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        folder.root.mkdir()
        folder.write_config(SMALL_CONFIG, {})
        assert self.parse(tmp_path, "--resume") == SMALL_CONFIG
        assert self.parse(tmp_path, "--resume", "--optim.epochs", "9").optim.epochs == 9
        assert self.parse(tmp_path) == PretrainConfig()


def test_mistyped_flags_and_values_are_refused_with_help(tmp_path: Path, capsys: Capture) -> None:
    start = ["pretrain", str(tmp_path), "--out", str(tmp_path / "run")]
    for words, message in (
        (["--method.nam", "moco"], "--method.nam: unknown flag; did you mean `--method.name`? ("),
        (["--lr", "0.1"], "--lr: unknown flag; did you mean `--optim.lr`? ("),
        (["--epochs=3"], "--epochs: unknown flag; did you mean `--optim.epochs`? ("),
        (["--xyzzy"], "--xyzzy: unknown flag (`fima pretrain --help` lists the flags)"),
        (["--gpu", "0"], "--gpu: unknown flag (`fima pretrain --help` lists the flags)"),
        (["--verbos"], "--verbos: unknown flag; did you mean `--verbose`? ("),
        (["--optim.schedule", "cosin"], "--optim.schedule cosin: invalid choice; did you mean `cosine`? ("),
        (["--optim.epochs", "many"], "--optim.epochs many: a whole number is needed ("),
        (["--optim.lr", "fast"], "--optim.lr fast: a number is needed ("),
        (["--data.span", "1", "x"], "--data.span 1 x: two numbers are needed ("),
        (["--start-epoch", "two"], "--start-epoch two: a whole number is needed ("),
        (["--optim.lr", "-1"], "error: --optim.lr -1.0: must be 0 or more ("),
        (["--optim.lr"], "--optim.lr: a value must follow ("),
    ):
        assert message in refused([*start, *words], capsys)
    assert "c: too many arguments (" in refused(["search", "a", "b", "c"], capsys)
    assert "missing: --out PATH: Folder of the run: settings, metrics and checkpoints (" in refused(
        ["pretrain", str(tmp_path)], capsys
    )
    assert "missing: INDEX: A file that `fima embed` wrote; VIDEO: The video to look for" in refused(["search"], capsys)
    assert "--epr: unknown flag; did you mean `--per`?" in refused(["embed", "a", "b", "--epr", "x"], capsys)
    for argv, message in (
        (["pretrain", "a", "-c", "x"], "-c: unknown flag; did you mean `--checkpoints`? ("),
        (["pretrain", "a", "--output", "x"], "--output: unknown flag; did you mean `--out`? ("),
        (["cam", "a", "b", "-m", "rgb"], "-m: unknown flag; did you mean `--map`? ("),
        (["predict", "a", "b", "-n", "3"], "-n: unknown flag ("),
        (["doctor", "a", "-v"], "-v: unknown flag; did you mean `--verbose`? ("),
        (["embed", "a", "b", "-o"], "-o/--out: a value must follow ("),
    ):
        assert message in refused(argv, capsys)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: {epoch: 3}")
    assert "did you mean `epochs`?" in refused([*start, str(recipe)], capsys)
    assert "second_folder: no such folder" in refused(["pretrain", "second_folder", *start[1:]], capsys)
    assert "cannot read the recipe" in refused([*start, "none.yaml"], capsys)
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_is_refused(tmp_path: Path, capsys: Capture) -> None:
    empty, out = tmp_path / "empty", ["--out", str(tmp_path / "run")]
    empty.mkdir()
    assert "no such folder" in refused(["pretrain", str(tmp_path / "none"), *out], capsys)
    assert "empty" in refused(["pretrain", str(empty), *out], capsys)
    assert "no such folder" in refused(["contact-sheet", str(tmp_path / "none"), "--out", "x.png"], capsys)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_neither_overwritten_nor_trained_again(run: RunFolder, videos: Path, capsys: Capture) -> None:
    before = run.last.read_bytes()
    start = ["pretrain", str(videos), "--out", str(run.root)]
    assert "already holds a run; continue it with --resume" in refused([*start, *SMALL_FLAGS], capsys)
    assert main([*start, "--resume"]) == 0
    assert "finished already, 2 epochs" in capsys.readouterr().out
    assert "--optim.lr 3.0: the run in" in refused([*start, "--resume", "--optim.lr", "3"], capsys)
    assert run.last.read_bytes() == before


def test_a_run_that_had_to_stop_exits_with_1(tmp_path: Path, capsys: Capture) -> None:
    folder = make_videos(tmp_path / "videos", num_per_class=2)
    for path in folder.rglob("*.avi"):
        path.write_bytes(b"no video")
    argv = ["pretrain", str(folder), "--out", str(tmp_path / "run"), *SMALL_FLAGS]
    assert "cannot be decoded" in refused_after_warnings(argv, capsys)


def refused_after_warnings(argv: list[str], capsys: Capture) -> str:
    assert main(argv) == 1
    *warnings, error = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("fima: warning: ") for line in warnings)
    assert error.startswith("fima: error: ")
    return error


def test_evaluate_prints_a_table_and_writes_its_json(run: RunFolder, videos: Path, capsys: Capture) -> None:
    argv = ["evaluate", str(run.root), str(videos), "--num_clips", "2", "--workers", "0", "--device", "cpu"]
    assert main([*argv, "--protocols", "knn", "retrieval"]) == 0
    said = capsys.readouterr().out
    assert "knn/top1" in said
    assert "R@1 " in said
    assert "R@5" not in said, "one more than a class has training videos"
    result = json.loads((run.root / "evaluation" / "last.json").read_text())
    assert main([*argv, "--protocols", "knn", "retrieval", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == result["figures"]
    assert set(result["protocols"]) == {"knn", "retrieval"}
    assert 0 <= result["figures"]["knn/top1"] <= 100
    assert list((run.root / "evaluation" / "cache").iterdir())
    assert "retrieval/R@50" in result["figures"]
    # Other protocols, features and clips keep what was found before, also by a version that did not record clips;
    # the same ones replace their own.
    before = {name: value for name, value in result.items() if name != "looked_at"}
    (run.root / "evaluation" / "last.json").write_text(json.dumps(before))
    assert main([*argv, "--protocols", "same_video"]) == 0
    assert json.loads((run.root / "evaluation" / "last.json").read_text()) == before
    (run.root / "evaluation" / "last.json").write_text(json.dumps(result))
    changes = (["--features", "max"], ["--stride", "1"], ["--seed", "1"])
    others = (["same_video"], *(["knn", "retrieval", *change] for change in changes))
    for number, words in enumerate((*others, *others)):
        assert main([*argv, "--protocols", *words]) == 0
        assert f"wrote {run.root / 'evaluation' / f'last-{number % 4 + 2}.json'}" in capsys.readouterr().out, number
    assert json.loads((run.root / "evaluation" / "last.json").read_text())["figures"] == result["figures"]
    assert "--protocols knm" in refused([*argv, "--protocols", "knm"], capsys)
    assert "no such checkpoint" in refused(["evaluate", "none.pt", str(videos)], capsys)
    assert "--device tpu" in refused([*argv, "--device", "tpu"], capsys)


def test_pictures(run: RunFolder, videos: Path, tmp_path: Path, capsys: Capture) -> None:
    sheet, maps = tmp_path / "sheet.png", tmp_path / "maps.png"
    assert main(["contact-sheet", str(videos), "--out", str(sheet)]) == 0
    options = ["--compare", str(run.numbered(2)), "--num_videos", "2", "--device", "cpu", "--out", str(maps)]
    assert main(["cam", str(run.last), str(videos), *options]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert maps.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert "no video given" in refused(["cam", str(run.last), *options], capsys)


@pytest.mark.parametrize("argv", [["--help"], ["embed", "--help"], ["completion", "bash"], ["doctor", "VIDEOS"]])
def test_a_reader_that_leaves_ends_a_command_quietly(argv: list[str], videos: Path) -> None:
    words = [str(videos) if word == "VIDEOS" else word for word in (*argv, "--quiet")]  # or it says how far it is
    assert output_into_closed_pipe([sys.executable, "-m", "fima", *words]) == (141, "")


def test_another_broken_pipe_is_no_reader_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that to a process that decodes and has died."""

    def broken(*words: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("fima.commands.parse.run_command", broken)
    with pytest.raises(BrokenPipeError):
        main(["embed"])


def test_make_data(tmp_path: Path, capsys: Capture) -> None:
    argv = ["make-data", "motion-textures", str(tmp_path / "data"), "--num-train", "1", "--num-test", "1"]
    assert main(argv) == 0
    assert main(argv) == 0
    done = "1 training video, 1 test video and two counterparts of each, there already"
    assert done in capsys.readouterr().out
    error = refused(["make-data", "motion-texture", str(tmp_path / "x")], capsys)
    assert "motion-texture: invalid choice; did you mean `motion-textures`?" in error


def test_sigterm_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fima", "make-data", "motion-textures", str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not list(tmp_path.rglob("*.avi")):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        # Its pipe ends when the processes that it has started are gone as well.
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, output) == (128 + signal.SIGTERM, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (MemoryError(), "MemoryError: too little memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "`ulimit -a`"),
        (RuntimeError("can't start new thread"), "`ulimit -a`"),
        (RuntimeError("Could not determine home directory."), "set HOME"),
    ],
)
def test_what_a_machine_lacks_is_one_line(
    error: Exception, remedy: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*words: object) -> int:
        raise error

    monkeypatch.setattr("fima.commands.parse.run_command", fails)
    assert main(["embed"]) == 1
    said = capsys.readouterr().err
    assert remedy in said
    assert said.count("\n") == 1


def test_no_place_for_temporary_files(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert "set TMPDIR" in refused(["doctor", "."], capsys)


def main_in_its_own_group(words: list[str]) -> int:
    """So that a signal reaches the decoding process too, as Ctrl-C and schedulers do."""
    os.setpgid(0, 0)
    return main(words)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_resume(number: signal.Signals, code: int, videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    workers = "1" if number == signal.SIGINT else "0"
    flags = [*SMALL_FLAGS, "--optim.epochs", "100000", "--run.health_epochs", "0", "--data.workers", workers]
    process = Started(main_in_its_own_group, ["pretrain", str(videos), "--out", str(run.root), *flags])
    try:
        while not (run.metrics.exists() and read_lines(run.metrics, "step")):
            assert process.returncode is None
            time.sleep(0.05)
        os.killpg(process.pid, number)
        output, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == code
    assert "--resume" in output.splitlines()[-1]
    assert "Traceback" not in errors
    assert run.last.exists()


def test_the_text_of_a_flag_is_wrapped_as_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    assert main(["cam", "--help"]) == 0
    assert "None: as in training, as with `fps` and `span`; give at most one of the three." in capsys.readouterr().out


def test_what_comes_next_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show_next(["search", "my vectors.npz"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show_next(["search", "my vectors.npz"], ["report", "runs/mine"])
    assert capsys.readouterr().out == "next: fima search 'my vectors.npz'\n  or: fima report runs/mine\n"
    monkeypatch.setenv("RANK", "1")
    show_next(["search", "my vectors.npz"])
    assert not capsys.readouterr().out
