import importlib
import multiprocessing.util
import os
import signal
import time
from pathlib import Path

import pytest

from fima.data.workers.killable_pool import Failed, run_isolated


def work(item: int | str) -> int:
    if item == "hang":
        time.sleep(1000)
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "leave":
        os._exit(3)
    if item == "memory":
        bytearray(2**40)
    if isinstance(item, str):
        raise KeyError(item)
    return item * item


@pytest.mark.parametrize("items_at_once", [1, 4])
def test_one_bad_item_costs_only_itself(items_at_once: int) -> None:
    items: list[int | str] = [1, 2, "hang", 3, "crash", 4, "leave", "memory", "wrong", 5]
    outcomes = dict(run_isolated(work, items, workers=2, timeout_seconds=2, items_at_once=items_at_once))
    assert [outcomes[place] for place in (0, 1, 3, 5, 9)] == [1, 4, 9, 16, 25]
    failed = {place: outcome.reason for place, outcome in outcomes.items() if isinstance(outcome, Failed)}
    reasons = {items[place]: reason for place, reason in failed.items()}
    assert reasons == {
        "hang": "not done after 2 s",
        "crash": "the process that worked on it died (SIGSEGV)",
        "leave": "the process that worked on it died (exit code 3)",
        "memory": "needs too much memory",
        "wrong": "KeyError: 'wrong'",
    }


def test_closing_ends_the_workers() -> None:
    before = set(multiprocessing.active_children())
    items: list[int | str] = ["hang", 7]
    outcomes = run_isolated(work, items, workers=2, timeout_seconds=100)
    assert next(outcomes) == (1, 49)
    assert set(multiprocessing.active_children()) > before
    outcomes.close()
    assert set(multiprocessing.active_children()) <= before


def note_the_exit(item: str) -> None:
    """Say in a file when the process that works on it ends as programs do."""
    finalize = multiprocessing.util.Finalize(None, Path(item).write_text, ("gone",), exitpriority=1)
    assert finalize.still_active()


def test_idle_workers_end_by_themselves(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    assert len(list(run_isolated(note_the_exit, map(str, files), workers=1, timeout_seconds=60))) == 2
    assert [file.read_text() for file in files] == ["gone", "gone"]


def test_no_items() -> None:
    assert list(run_isolated(work, list[int | str](), workers=2, timeout_seconds=1)) == []


def test_the_time_to_begin_is_not_the_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(3)\ndef work(item):\n    return 2 * item\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("slow_to_import")
    outcomes = dict(run_isolated(module.work, [1, 2], workers=1, timeout_seconds=1))
    assert outcomes == {0: 2, 1: 4}
