"""A disk that is really full: a small file system of its own, seen by nothing but the run."""

import subprocess
import sys
from pathlib import Path

import pytest

from fima.checkpoints.checkpoint import load_checkpoint
from fima.checkpoints.run_folder import RunFolder
from fima.files.jsonl import read_lines
from tests.small_runs import SMALL_FLAGS, make_videos

MOUNT = 'mount -t tmpfs -o size=24m tmpfs "$1"'
SCRIPT = f"""
{MOUNT} || exit 99
fima() {{ videos=$1; out=$2; shift 2; "$PYTHON" -m fima pretrain "$videos" --out "$out" $FLAGS "$@"; }}
fima "$3" "$1/run" --optim.epochs 1 || exit 98
before=$(cksum < "$1/run/checkpoints/last.pt")
dd if=/dev/zero of="$1/filler" bs=64k 2> "$2/dd"    # until the disk is full
truncate -s -128k "$1/filler"                       # room for lines, but for no checkpoint
fima "$3" "$1/run" --optim.epochs 2 --auto-resume 2> "$2/error"
echo $? > "$2/code"
[ "$before" = "$(cksum < "$1/run/checkpoints/last.pt")" ] || exit 97
rm "$1/filler"
fima "$3" "$1/run" --optim.epochs 2 --auto-resume || exit 96
cp -r "$1/run" "$2/run"
"""


def unshare(tmp_path: Path) -> list[str]:
    """What runs a command with mounts of its own, as root or as a user who is root in there."""
    probe = tmp_path / "probe"
    probe.mkdir()
    for words in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        try:
            outcome = subprocess.run([*words, "sh", "-c", MOUNT, "sh", str(probe)], capture_output=True)
        except OSError:
            break
        if outcome.returncode == 0:
            return words
    pytest.skip("no mounts of one's own here")


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint_and_no_step(tmp_path: Path) -> None:
    words = unshare(tmp_path)
    videos, disk, kept = make_videos(tmp_path / "videos"), tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    flags = f"PYTHON={sys.executable}", f"FLAGS={' '.join([*SMALL_FLAGS, '--run.health-epochs', '0'])}"
    command = ["env", *flags, *words, "sh", "-c", SCRIPT, "sh", str(disk), str(kept), str(videos)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    error = (kept / "error").read_text()
    assert (kept / "code").read_text() == "1\n", error
    assert "No space left" in (kept / "dd").read_text()
    assert "CHECKPOINT NOT WRITTEN" in error
    assert "No space left on device" in error
    assert "Traceback" not in error
    run = RunFolder(kept / "run")
    assert load_checkpoint(run.last).progress.epoch == 2
    assert [line["step"] for line in read_lines(run.metrics) if line["kind"] == "step"] == [1, 2, 3, 4]
