"""Files of strangers: whatever takes one, runs nothing of it, and refuses it in one line."""

import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fima.checkpoints.checkpoint import FORMAT_VERSION, Checkpoint, load_checkpoint
from fima.checkpoints.pretrained import load_pretrained
from fima.checkpoints.run_folder import RunFolder
from fima.cli import main
from fima.data.decode.video import VideoReader
from fima.errors import CheckpointError, VideoError
from fima.evaluate.features import encode
from tests.small_runs import SMALL_FLAGS
from tests.test_any_encoder import opened, save, some_clips
from tests.test_pretrained import tiny_state
from tests.video_files import write_ucf101_avi

Write = Callable[[Path, object], None]
COMMANDS = {
    "evaluate": "evaluate {file} {videos} --device cpu --workers 0",
    "finetune": "finetune {file} {videos} --out {out}/run --run.device cpu --data.workers 0",
    "embed": "embed {file} {videos} -o {out}/vectors.npz --device cpu --workers 0",
    "predict": "predict {file} {videos} --device cpu",
    "export": "export {file} --format safetensors -o {out}/encoder.safetensors",
    "convert": "convert {file} {out}/converted.pt",
    "convert back": "convert {file} {out}/converted.pt --to official",
    "encoder alone": "convert {file} {out}/encoder.safetensors --encoder-only",
    "cam": "cam {file} {videos} --out {out}/cam.png --device cpu",
    "resume from": "pretrain {videos} --out {out}/run --resume-from {file} {small}",
}


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def as_zip(path: Path, content: object) -> None:
    torch.save(content, path)


def as_old_torch_file(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [as_zip, as_old_torch_file, as_pickle])
@pytest.mark.parametrize("read", [load_checkpoint, partial(load_pretrained, device=torch.device("cpu"))])
@pytest.mark.parametrize("own", [True, False], ids=["as ours", "as the authors'"])
def test_code_in_a_checkpoint_is_not_run(
    write: Write, read: Callable[[Path], object], own: bool, tmp_path: Path
) -> None:
    ours = {"format": Checkpoint.FORMAT, "format_version": FORMAT_VERSION, "model": {}}
    content = {**(ours if own else {"state_dict": tiny_state()}), "arch": Malicious(tmp_path / "owned")}
    write(tmp_path / "last.pt", content)
    with pytest.raises(CheckpointError, match=r"last.pt: .*(not loaded|no checkpoint|holds no weights)"):
        read(tmp_path / "last.pt")
    assert not (tmp_path / "owned").exists()


def test_the_code_would_do_harm(tmp_path: Path) -> None:
    as_pickle(tmp_path / "last.pt", Malicious(tmp_path / "owned"))
    pickle.loads((tmp_path / "last.pt").read_bytes())
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_it(name: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stranger.pt"
    as_zip(file, {"state_dict": {}, "arch": Malicious(tmp_path / "owned")})
    words = COMMANDS[name].format(file=file, videos=videos, out=tmp_path, small=" ".join(SMALL_FLAGS))
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert f"{file}: " in error
    assert "not loaded" in error
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert not (tmp_path / "owned").exists()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_run_folder_of_a_stranger_is_refused_too(videos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    words = ["pretrain", str(videos), "--out", str(run.root), *SMALL_FLAGS, "--run.health-epochs", "0"]
    assert main(words) == 0
    for path in run.checkpoint_folder.iterdir():
        as_zip(
            path,
            {"format": Checkpoint.FORMAT, "format_version": FORMAT_VERSION, "model": Malicious(tmp_path / "owned")},
        )
    assert main([*words, "--resume", "--optim.epochs", "3"]) == 2
    assert not (tmp_path / "owned").exists()


def test_vectors_that_hold_code_are_refused(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = tmp_path / "vectors.npz"
    np.savez(vectors, vectors=np.array([Malicious(tmp_path / "owned")], dtype=object))
    assert main(["search", str(vectors), str(next(videos.rglob("*.avi")))]) == 2
    assert f"{vectors}: " in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()


def test_code_in_a_folder_of_transformers_is_not_run(tmp_path: Path) -> None:
    save("videomae", 1, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    own = {"AutoConfig": "stranger.Config", "AutoModel": "stranger.Model"}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    code = f"open({str(tmp_path / 'owned')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    (tmp_path / "model" / "stranger.py").write_text(code)
    assert encode(opened(tmp_path / "model").module, some_clips()).isfinite().all()
    assert not (tmp_path / "owned").exists()


def test_a_video_that_is_a_list_of_other_files_is_refused(tmp_path: Path) -> None:
    write_ucf101_avi(tmp_path / "secret.avi")
    path = tmp_path / "video.avi"
    path.write_text("ffconcat version 1.0\nfile secret.avi\n")
    with pytest.raises(VideoError, match=r"video.avi.*a list of other files, not a video"):
        VideoReader(path)
