"""Processes that decode give the same however they start: `forkserver` is the rule on Linux from Python 3.14 on."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fima
from tests.encoder_files import write_checkpoint

SCRIPT = """
import multiprocessing, sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    method, videos, checkpoint, out = sys.argv[1:]
    multiprocessing.set_start_method(method)
    import torch

    import fima
    from fima.data.datasets import list_videos
    from fima.data.loader import build_pretrain_loader
    from tests.small_runs import SMALL_CONFIG

    batches = {}
    for workers in (0, 1):
        data = replace(SMALL_CONFIG.data, workers=workers)
        loader = build_pretrain_loader(list_videos(Path(videos)), data, batch_size=4, seed=0)
        batches[workers] = [batch.a.full for batch in loader]
    assert len(batches[0]) == len(batches[1]) > 0
    assert all(torch.equal(one, other) for one, other in zip(*batches.values(), strict=True))
    paths = sorted(Path(videos).rglob("*.avi"))
    torch.save(fima.load(checkpoint).embed(paths, workers=1), out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_batches_and_vectors_are_the_same(method: str, videos: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "last.pt")
    script, out = tmp_path / "script.py", tmp_path / "vectors.pt"
    script.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n{SCRIPT}")
    command = [sys.executable, str(script), method, str(videos), str(checkpoint), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = fima.load(checkpoint).embed(sorted(videos.rglob("*.avi")))
    torch.testing.assert_close(torch.load(out), expected, atol=1e-5, rtol=0)
