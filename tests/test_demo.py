"""`fima demo`: which commands it runs, what it leaves, and what happens when one of its two processes fails."""

import json
from pathlib import Path

import pytest

from fima.cli import main
from fima.commands import demo, study
from fima.evaluate.protocols import FEATURE_PROTOCOLS

FIGURES = dict.fromkeys(study.COLUMNS.values(), 12.5)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have run; those that train leave figures, as they do."""
    ran: list[list[str]] = []

    def record(command: str, *words: object) -> None:
        ran.append([command, *map(str, words)])
        if command == "evaluate":
            result = study.result_file(Path(str(words[0])).parents[1])
            study.write_json(result, {"figures": FIGURES})

    monkeypatch.setattr(study, "run", record)
    monkeypatch.setattr(demo, "run", record)
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

    def one_after_the_other(words: list[str]) -> int:
        return max(main(["demo", *words, "--method", name]) for name in demo.RECIPES)

    monkeypatch.setattr(demo, "_side_by_side", one_after_the_other)
    assert main(["demo", "--seed", "3", *flags]) == 0
    folder = Path("runs", "demo-quick" if flags else "demo")
    assert [words[0] for words in commands] == [
        "make-data", "contact-sheet", "pretrain", "evaluate", "pretrain", "evaluate", "cam", "cam", "report",
    ]  # fmt: skip
    made, trained, measured = commands[0], commands[4], commands[5]
    assert ("--num-train" in made) == ("--optim.epochs" in trained) == bool(flags)
    assert trained[1] == made[2] == str(folder / "data-3")
    assert set(FEATURE_PROTOCOLS) < set(measured)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["quick"] == bool(flags)
    assert summary["methods"]["fima"] == dict.fromkeys(study.COLUMNS, 12.5)
    assert capsys.readouterr().out.splitlines()[-1] == f"everything on one page: {folder / 'report.html'}"


def test_both_methods_end_when_one_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo._side_by_side(["--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'data-0'}" in printed
    assert "| fima: error: " in printed
