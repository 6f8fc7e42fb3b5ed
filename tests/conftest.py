"""What many test files share, made once in each process of the tests."""

from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

# The first optimizer of a process loads `torch._dynamo`, which takes as long as all the rest.
PRELOADED = [
    "pytest",
    "torch._dynamo",
    "fima.cli",
    "fima.commands.pretrain",
    "fima.evaluate.feature_store",
    "fima.train.pretrain",
    "fima.visual.tensorboard",
]


@pytest.fixture(scope="session", autouse=True)
def _loaded_processes() -> Iterator[None]:
    """Processes are copies of one that has loaded PyTorch, which takes seconds, whichever test starts the first."""
    forkserver.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forkserver, "set_forkserver_preload", lambda modules: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests neither see nor fill the caches of whoever runs them, such as the indices of folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training videos of two classes, so two steps an epoch, and two test videos; only to be read."""
    from tests.small_runs import make_videos

    return make_videos(tmp_path_factory.mktemp("shared") / "videos")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A checkpoint of one epoch of pre-training on them; only to be read."""
    from tests.finetune_runs import pretrain_once

    return pretrain_once(videos, tmp_path_factory.mktemp("pretrained") / "run")


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in UCF101's layout with three splits, whose classes are levels of brightness; only to be read."""
    from tests.evaluation_data import write_three_splits

    return write_three_splits(tmp_path_factory.mktemp("shared") / "ucf")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of pre-training with random weights; only to be read."""
    from tests.encoder_files import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("encoder") / "last.pt")
