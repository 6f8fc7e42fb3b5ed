"""`fima demo`: which commands it runs, what it leaves, and what happens when one of its two processes fails."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fima.cli import main
from fima.commands import at_once, demo, study
from fima.commands.at_once import run_at_once
from fima.commands.make_data import MakeDataArguments
from fima.evaluate.protocols import FEATURE_PROTOCOLS, PROTOCOL_VERSIONS
from fima.recipe import RECIPES, read_recipe
from fima.train.resolve import published_queue_sizes
from tests.long_command import wait_long

FIGURES = dict.fromkeys(study.COLUMNS.values(), 12.5)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have run; those that train leave figures, as they do."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ran: list[list[str]] = []

    def record(command: str, *words: object) -> None:
        ran.append([command, *map(str, words)])
        if command == "evaluate":
            result = study.result_file(Path(str(words[0])).parents[1])
            study.write_json(result, {"figures": FIGURES, "protocols": {"knn": {"version": PROTOCOL_VERSIONS["knn"]}}})

    monkeypatch.setattr(study, "run", record)
    monkeypatch.setattr(demo, "load_ahead", lambda: None)
    return ran


@pytest.mark.parametrize("flags", [[], ["--quick"]])
def test_the_demo(
    flags: list[str],
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def one_after_the_other(started: dict[str, list[str]]) -> int:
        for words in started.values():
            if words[0] == "demo":
                assert main(words) == 0
            else:
                commands.append(list(map(str, words)))
        return 0

    monkeypatch.setattr(demo, "run_at_once", one_after_the_other)
    assert main(["demo", "--seed", "3", *flags]) == 0
    folder = Path("runs", "demo-quick" if flags else "demo")
    assert [words[0] for words in commands] == [
        "make-data", "contact-sheet", "pretrain", "evaluate", "pretrain", "evaluate", "cam", "report",
        *([] if flags else ["cam"]),
    ]  # fmt: skip
    made, trained, measured = commands[0], commands[4], commands[5]
    assert ("--num-train" in made) == ("--optim.epochs" in trained) == bool(flags)
    assert trained[1] == made[2] == str(folder / "data-3")
    assert set(FEATURE_PROTOCOLS) < set(measured)
    assert ("occlusion" in measured) == ("light" not in trained) == (not flags)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["quick"] == bool(flags)
    assert summary["methods"]["fima"] == dict.fromkeys(study.COLUMNS, 12.5)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"everything on one page: {folder / 'report.html'}"
    assert ("FIMA light" in printed) == ("Smaller than `fima demo`" in printed) == bool(flags)


def test_a_result_is_measured_again_where_a_protocol_has_changed(commands: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()

    def measured() -> list[str]:
        commands.clear()
        study.pretrain_and_evaluate(study.Trial(recipe="moco.yaml"), data=tmp_path, out=tmp_path, seed=0)
        return [words[0] for words in commands]

    assert [measured(), measured()] == [["pretrain", "evaluate"], ["pretrain"]]
    result = study.result_file(tmp_path)
    study.write_json(result, {"figures": FIGURES, "protocols": {"knn@max": {"version": 0}}})
    assert [measured(), measured()] == [["pretrain", "evaluate"], ["pretrain"]]


def test_the_quick_demo_says_what_is_smaller() -> None:
    data, recipe = MakeDataArguments(kind="motion-textures", out=Path()), read_recipe(RECIPES / demo.RECIPES["fima"])
    quick = dict(zip(demo.QUICK_SIZE[::2], demo.QUICK_SIZE[1::2], strict=True))
    said = " ".join(demo.QUICK_NOTE.split())
    for text in (
        f"{quick['--num-train']} training videos instead of {data.num_train}",
        f"{quick['--num-test']} test videos instead of {data.num_test}",
        f"{demo.QUICK_SETTINGS['optim.epochs']} epochs instead of {recipe.optim.epochs}",
        f"crops of {demo.QUICK_SETTINGS['data.crop_size']} px instead of {recipe.data.crop_size}",
    ):
        assert text in said
    queue, _ = published_queue_sizes(int(quick["--num-train"]))
    assert demo.QUICK_SETTINGS["method.queue_size"] == queue


@pytest.mark.slow
def test_both_methods_end_when_one_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--out", str(tmp_path), "--method"]
    assert run_at_once({name: [*words, name] for name in demo.RECIPES}) == 2
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'data-0'}" in printed
    assert "| fima: error: " in printed


def ends(pid: int) -> bool:
    """Whether a process is gone soon: the one that started it has to notice first."""
    for _ in range(1000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what is in its background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_methods_end_with_a_signal(
    number: signal.Signals, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard: list[str] = []

    class Listener:
        def print(self, line: str, **_: object) -> None:
            heard.append(line)
            if len(heard) == len(demo.RECIPES):
                os.kill(os.getpid(), number)

    monkeypatch.setattr(at_once, "Console", Listener)
    monkeypatch.setattr(demo, "run_at_once", partial(run_at_once, work=wait_long))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["demo", "--out", str(tmp_path)]) == 128 + number
    names, pids, words = zip(*(re.split(r"[ |]+", line) for line in heard), strict=True)
    assert sorted(names) == sorted(words) == ["fima", "moco"]
    assert all(ends(int(pid)) for pid in pids)
    assert signal.getsignal(signal.SIGTERM) == before
    assert [ran[0] for ran in commands] == ["make-data", "contact-sheet"]
