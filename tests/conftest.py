"""What many test files share, made once in each process of the tests."""

from pathlib import Path

import pytest


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
