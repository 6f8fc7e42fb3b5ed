"""How far a command is, in lines."""

import pytest

from fima.commands.progress import progress


def test_the_time_left_is_that_of_the_files_after_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processes take 30 s to start, and then two seconds for a file."""
    clock = iter([0.0, 30.0, 32.0, 40.0, 41.0, 50.0])
    monkeypatch.setattr("fima.commands.progress.time.monotonic", lambda: next(clock))
    with progress("decoding") as report:
        for done in (1, 2, 6, 7, 11):
            report(done, 21)
    assert capsys.readouterr().err.splitlines() == [
        "decoding: 1 of 21 files",
        "decoding: 6 of 21 files, about 30 s left",
        "decoding: 11 of 21 files, about 20 s left",
    ]
