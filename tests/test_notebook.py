"""The notebook runs from nothing, and stores what a run of it shows."""

import json
import os
import re
import sysconfig
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from fima.console import STARTED_BY_A_NOTEBOOK, Console
from tests.doc_pages import REPOSITORY, SITE

NOTEBOOK = REPOSITORY / SITE.NOTEBOOK
LARGEST_BYTES = 400_000
RENEW = "renew its outputs: jupyter execute --inplace examples/your_own_videos.ipynb, in an empty folder's copy"


def stored() -> Any:  # noqa: ANN401
    """The notebook as it is in the repository."""
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def shown(cell: dict[str, Any]) -> list[str]:
    """What kinds of output a cell has, in order: text, or a picture's type."""
    kinds: list[str] = []
    for output in cell.get("outputs", ()):
        kind = "text" if output["output_type"] == "stream" else next(iter(output["data"]))
        if kind not in kinds[-1:]:
            kinds.append(kind)
    return kinds


@pytest.mark.slow  # continuous integration runs the same commands from the pages (test_doc_commands.py)
def test_the_notebook_runs_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, with the videos elsewhere, under a name with a blank."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)  # what it covers, other tests do
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    run, videos = stored(), tmp_path / "my videos"
    begin = next(cell for cell in run.cells if cell.cell_type == "code")
    assert 'VIDEOS = "videos"' in begin.source
    begin.source = begin.source.replace('VIDEOS = "videos"', f'VIDEOS = "{videos}"')
    tmp_path = tmp_path / "notebook"
    tmp_path.mkdir()
    NotebookClient(run, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    # A line `!fima …` that fails does not stop a notebook.
    assert "fima: error" not in json.dumps(run.cells)
    assert [shown(cell) for cell in run.cells] == [shown(cell) for cell in stored().cells], RENEW
    found = json.loads((tmp_path / "found.json").read_text())
    assert [hit["rank"] for hit in found] == [1, 2, 3, 4, 5]
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-4)
    figures = json.loads((tmp_path / "runs" / "mine" / "evaluation" / "last.json").read_text())["figures"]
    assert figures["linear/top1"] > 30  # 10 is chance; the encoder that it starts from has 80
    assert (tmp_path / "report.html").stat().st_size > 10**6


def test_what_is_stored_is_small_and_of_no_machine() -> None:
    assert NOTEBOOK.stat().st_size < LARGEST_BYTES
    outputs = [output for cell in stored().cells for output in cell.get("outputs", ())]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert not re.search(r"(^|[\s\"'(])/\w+/", printed)
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}


def test_the_page_shows_the_outputs() -> None:
    page = SITE.notebook_page()
    assert page.count("<img ") == 3
    assert "```text" in page
    assert page.startswith("# ")


def test_a_cell_gets_lines_and_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STARTED_BY_A_NOTEBOOK, raising=False)
    assert Console(force_terminal=True).is_terminal
    monkeypatch.setenv(STARTED_BY_A_NOTEBOOK, "1")
    assert not Console(force_terminal=True).is_terminal
