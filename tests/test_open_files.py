"""Too few files that may be open at once are an error before the processes that would wait for them."""

from pathlib import Path

import pytest

from fima.data.eval_clips import ClipSettings
from fima.data.workers.crash_guard import require_open_files
from fima.errors import ConfigError
from fima.evaluate.extract import Resources, decoded_clips, extract_rows
from tests.started import Started

resource = pytest.importorskip("resource")


def limit(soft: int, hard: int, workers: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        require_open_files(workers, flag="data.workers")
        print("ok", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    except ConfigError as error:
        print("ConfigError", error)


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
    output, errors = Started(limit, soft, hard, workers).communicate()
    assert output.startswith(said), output + errors


def load() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (70, 70))
    settings, paths = ClipSettings(frames=4, crop_size=16, num_clips=1), [Path("none.mp4")]
    for clips in (
        decoded_clips(paths, settings, Resources(workers=4)),
        extract_rows(paths, lambda pixels: pixels, settings, Resources(workers=4)),
    ):
        try:
            list(clips)
        except ConfigError as error:
            print("ConfigError", error)


def test_evaluation_and_embedding_are_refused_as_well() -> None:
    output, errors = Started(load).communicate()
    said = "ConfigError --workers 4: too many for 70 open files, the limit here; choose 0, or a higher limit"
    assert output.splitlines() == [f"{said} (ulimit -n)"] * 2, output + errors
