"""The quick scripts of `benchmarks/` run to their end: nothing else would notice that one of them no longer does."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
QUICK = (
    "communication.py --backbone tiny --batch-size 4 --crop-size 32",
    "decode.py --clips 1",
    "index.py --repeats 1 --copies 2 --workers 1",
    "loader.py --samples 2",
    "memory.py --backbone tiny --batch-size 4 --crop-size 32",
    "probes.py --train 60 --test 20 --size 16 --classes 3",
    "search.py --vectors 2000 --queries 5",
)


@pytest.mark.slow
@pytest.mark.parametrize("line", QUICK)
def test_it_runs(line: str, tmp_path: Path) -> None:
    name, *words = line.split()
    ended = subprocess.run(
        [sys.executable, SCRIPTS / name, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
