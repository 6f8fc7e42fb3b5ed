"""Whatever stands in a checkpoint: its weights are read, or one line says why not; nothing of it is run."""

import argparse
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fima.checkpoints.checkpoint import load_checkpoint
from fima.checkpoints.official_checkpoint import load_training_checkpoint
from fima.checkpoints.pretrained import load_pretrained
from fima.errors import CheckpointError
from tests.encoder_files import write_checkpoint
from tests.test_foreign_checkpoints import Wrapped, optimizer_state
from tests.test_hostile_files import Malicious
from tests.test_list_fuzz import LIST_PIECES, NUM_EXAMPLES, edited
from tests.test_pretrained import CPU, moco_state, tiny_state

OPCODES = (b"R", b"c", b"\x93", b"b", b"\x81", b"\x80\x04", b".", b"0", b"cos\nsystem\n", b"\xff" * 4, b"\x8d", b"e")
"""Opcodes of pickles, besides what lists are changed by."""


def foreign(trace: Path) -> dict[str, Any]:
    """A training file of another program, which makes a folder where it is unpickled as it is."""
    settings = argparse.Namespace(lr=0.1, best=np.float64(1), mark=Malicious(trace))
    return {"state_dict": moco_state(), "optimizer": optimizer_state(), "epoch": 3, "args": settings}


def plain_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "ours.pt": lambda path, _: write_checkpoint(path),
    "moco.pth.tar": lambda path, _: torch.save({"state_dict": moco_state(), "epoch": 3}, path),
    "foreign.pth": lambda path, trace: torch.save(foreign(trace), path),
    "old.pth": lambda path, trace: torch.save(foreign(trace), path, _use_new_zipfile_serialization=False),
    "module.pt": lambda path, _: torch.save(Wrapped(), path),
    "plain.pkl": lambda path, trace: plain_pickle(foreign(trace), path),
    "encoder.safetensors": lambda path, _: save_file(tiny_state(), path, metadata={"fima": '{"config": {}}'}),
}


READERS: tuple[Callable[[Path], object], ...] = (
    lambda path: load_pretrained(path, device=CPU),
    load_training_checkpoint,
    load_checkpoint,
)


@pytest.fixture(scope="module", params=WRITERS)
def original(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ANN401
    """A checkpoint."""
    path: Path = tmp_path_factory.mktemp("original") / request.param
    WRITERS[request.param](path, path.parent / "changed" / "trace")
    return path


def parts_of(path: Path) -> dict[str, bytes]:
    """The files in a zip archive; nothing where it is none."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_edited(parts: dict[str, bytes], path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    """Write the archive with its pickle changed; its checksums fit what is in it then."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, edited(content, edits) if name.endswith(".pkl") else content)


def drawn_edits(chance: random.Random) -> list[tuple[float, int, bytes]]:
    """Some changes as of lists, and one by an opcode."""
    pieces = (chance.randbytes(chance.randrange(5)), *LIST_PIECES)
    edits = [(chance.random(), chance.randrange(7), chance.choice(pieces)) for _ in range(chance.randrange(1, 5))]
    opcode = chance.choice(OPCODES)
    return [*edits, (edits[0][0], len(opcode), opcode)]


def test_any_checkpoint_is_read_or_refused(original: Path) -> None:
    path, content = original.parent / "changed" / original.name, original.read_bytes()
    parts = parts_of(original)
    path.parent.mkdir(exist_ok=True)
    for seed in range(NUM_EXAMPLES // 4):
        chance = random.Random(seed)
        edits = drawn_edits(chance)
        if parts and chance.random() < 0.5:
            write_edited(parts, path, edits)
        else:
            path.write_bytes(edited(content, edits))
        refusals = []
        for read in READERS:
            try:
                read(path)
            except CheckpointError as error:
                refusals.append(str(error))
        assert all("\n" not in refusal and str(path) in refusal for refusal in refusals), seed
        assert [file.name for file in path.parent.iterdir()] == [path.name], seed
