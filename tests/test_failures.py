"""When videos that cannot be decoded stop a run."""

import json
from pathlib import Path

import pytest

from fima.checkpoints.checkpoint import Progress
from fima.checkpoints.run_folder import RunFolder
from fima.errors import TrainingError
from fima.train.failures import check_skipped


@pytest.mark.parametrize(
    ("progress", "share", "stops"),
    [
        (Progress(videos_tried=20, videos_skipped=5), 0.05, False),  # by chance, of a set with 5 bad ones in 100
        (Progress(videos_tried=90, videos_skipped=6), 0.05, True),
        (Progress(videos_tried=190, videos_skipped=10), 0.05, False),
        (Progress(epoch=50, videos_tried=190, videos_skipped=11), 0.05, True),  # begun with --start-epoch
        (Progress(videos_tried=1, videos_skipped=1), 0.0, True),
    ],
)
def test_the_share_is_of_the_epochs_that_were_begun(
    progress: Progress, share: float, stops: bool, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    lines = [json.dumps({"path": f"{number}.avi"}) for number in range(progress.videos_skipped)]
    run.skipped.write_text("".join(f"{line}\n" for line in lines))
    if stops:
        with pytest.raises(TrainingError, match=rf"^{len(lines)} videos cannot be decoded"):
            check_skipped(progress, share, 100, run)
    else:
        check_skipped(progress, share, 100, run)
