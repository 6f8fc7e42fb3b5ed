"""Too few files that may be open at once are an error before the processes that would wait for them."""

import subprocess
import sys

import pytest

pytest.importorskip("resource")

CODE = """
import resource
from fima.data.workers.crash_guard import require_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
try:
    require_open_files({workers}, flag="data.workers")
    print("ok", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "workers", "said"),
    [
        (40, 40, 0, "ok 40"),
        (40, 40, 4, "ConfigError --data.workers 4: too many for 40 open files, the limit here; choose 0, or a higher"),
        (100, 100, 4, "ConfigError --data.workers 4: too many for 100 open files, the limit here; choose 3, or a "),
        (120, 120, 4, "ok 120"),
        (40, 400, 4, "ok 192"),
        (300, 400, 4, "ok 300"),
    ],
)
def test_the_limit_is_raised_or_named(soft: int, hard: int, workers: int, said: str) -> None:
    code = CODE.format(soft=soft, hard=hard, workers=workers)
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert outcome.stdout.startswith(said), outcome.stdout + outcome.stderr


LOADERS = """
import resource
from pathlib import Path
from fima.data.eval_clips import ClipSettings
from fima.evaluate.extract import Resources, decoded_clips, extract_rows
resource.setrlimit(resource.RLIMIT_NOFILE, (70, 70))
settings, paths = ClipSettings(frames=4, crop_size=16, num_clips=1), [Path("none.mp4")]
for start in (
    lambda: list(decoded_clips(paths, settings, Resources(workers=4))),
    lambda: list(extract_rows(paths, None, settings, Resources(workers=4))),
):
    try:
        start()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_evaluation_and_embedding_are_refused_as_well() -> None:
    outcome = subprocess.run([sys.executable, "-c", LOADERS], capture_output=True, text=True, timeout=120)
    said = "ConfigError --workers 4: too many for 70 open files, the limit here; choose 0, or a higher limit"
    assert outcome.stdout.splitlines() == [f"{said} (ulimit -n)"] * 2, outcome.stdout + outcome.stderr
