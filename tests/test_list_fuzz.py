"""Whatever stands in the list files of a data set: its videos are found below its folder, or one line says why not."""

import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fima.config import Dataset
from fima.data.datasets import list_videos
from fima.data.quarantine import exclude, read_quarantine
from fima.errors import DataError

CONTENTS: dict[Dataset, dict[str, str]] = {
    "ucf101": {
        "anno/trainlist01.txt": "Swing/v_2.avi 1\nArchery/v_3.avi 2\n",
        "anno/testlist01.txt": "Swing/v_1.avi\n",
        "anno/classInd.txt": "1 Swing\n2 Archery\n",
    },
    "hmdb51": {"anno/pick_test_split1.txt": "a.avi 1 \nb.avi 2 \n", "anno/run_test_split1.txt": "c.avi 1 \n"},
    "k400": {
        "k.csv": "label,youtube_id,time_start,time_end,split\nx,AbCdEfGhIjK,0,10,train\ny,bbCdEfGhIjK,1,11,train\n"
    },
    "ssv2": {
        "train.json": json.dumps([{"id": "2", "template": "Holding [something]"}, {"id": "3", "template": "Eating"}]),
        "labels.json": json.dumps({"Holding something": "0", "Eating": "1"}),
        "validation.json": json.dumps([{"id": "1", "template": "Eating"}]),
    },
    "diving48": {
        "Diving48_V2_train.json": json.dumps([{"vid_name": "a_00001", "label": 1, "start_frame": 0, "end_frame": 4}]),
        "Diving48_V2_test.json": json.dumps([{"vid_name": "a_00002", "label": 0, "start_frame": 0, "end_frame": 4}]),
        "Diving48_vocab.json": json.dumps([["Back", "15som"], ["Forward", "Dive"]]),
    },
    "table": {"videos.csv": "path,label,split\nclips/a.mp4,run,train\nclips/b.mp4,jump,test\n"},
}
"""Whole lists, by layout and file."""
VIDEOS: dict[Dataset, tuple[str, ...]] = {
    "ucf101": ("data/Swing/v_1.avi", "data/Swing/v_2.avi", "data/Archery/v_3.avi"),
    "hmdb51": ("data/pick/a.avi", "data/pick/b.avi", "data/run/c.avi"),
    "k400": ("x/AbCdEfGhIjK_000000_000010.mp4", "y/bbCdEfGhIjK_000001_000011.mp4"),
    "ssv2": ("20bn-something-something-v2/1.webm", "20bn-something-something-v2/2.webm"),
    "diving48": ("rgb/a_00001.mp4", "rgb/a_00002.mp4"),
    "table": ("clips/a.mp4", "clips/b.mp4"),
}
LISTS = [(dataset, file) for dataset, files in CONTENTS.items() for file in files]
PARQUET = "videos.parquet"
if importlib.util.find_spec("pyarrow"):
    LISTS.append(("table", PARQUET))
LIST_PIECES = (
    b"../",
    b"/etc/passwd",
    b"\n",
    b",",
    b" ",
    b'"',
    b"[",
    b"{}",
    b"null",
    b"-1",
    b"\0",
    b"\\",
    b"\xff",
    b"9" * 30,
    b"C:",
)
PIECES = st.one_of(st.binary(max_size=4), st.sampled_from(LIST_PIECES))
NUM_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "30"))
"""Of each file; `make soak` asks for more."""
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 6), PIECES), min_size=1, max_size=4)
"""Where, as a share of the file; how many bytes are taken out; what is put in their place."""


@pytest.fixture(scope="module", params=LISTS, ids=lambda listed: f"{listed[0]} {listed[1]}")
def data(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path, Path]:  # noqa: ANN401
    """A layout, its folder, and the list in it that is changed."""
    dataset, file = request.param
    root = tmp_path_factory.mktemp("data") / "root"
    for name in (*VIDEOS[dataset], "../outside.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in [file] if file == PARQUET else CONTENTS[dataset]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(whole(dataset, name))
    assert list_videos(root, "train", dataset=dataset).videos
    return dataset, root, root / file


def whole(dataset: Dataset, file: str) -> bytes:
    """A list as it should be; the Parquet table has what the CSV has."""
    if file != PARQUET:
        return CONTENTS[dataset][file].encode()
    pyarrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    header, *rows = (line.split(",") for line in CONTENTS["table"]["videos.csv"].splitlines())
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    written = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), written)
    return written.getvalue()


def edited(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for share, taken, piece in edits:
        place = round(share * len(content))
        content = content[:place] + piece + content[place + taken :]
    return content


@settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=EDITS, split=st.sampled_from(["train", "test", "all"]))
def test_any_list_is_read_or_refused(
    data: tuple[Dataset, Path, Path],
    edits: list[tuple[float, int, bytes]],
    split: Any,  # noqa: ANN401
) -> None:
    dataset, root, file = data
    file.write_bytes(edited(whole(dataset, file.relative_to(root).as_posix()), edits))
    try:
        listed = list_videos(root, split, dataset=dataset)
    except DataError as error:
        refusal = str(error)
    else:
        for video in listed.videos:
            assert video.path.resolve().is_relative_to(root)
            assert video.label is None or 0 <= video.label < len(listed.classes)
        return
    assert "\n" not in refusal
    assert str(root) in refusal


EXCLUDED = '\ufeff# of the lab\r\nclips/a.mp4\r\n"clips/\\u0062.mp4"\nlab\\clips\\a.mp4\n\n./clips/c.mp4\n'


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(edits=EDITS)
def test_any_exclusion_list_is_followed_or_refused(tmp_path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    """What it leaves, what it takes away and what it says make all that it names."""
    for name in "abcd":
        (tmp_path / "lab/clips").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"lab/clips/{name}.mp4").touch()
    file = tmp_path / "list.txt"
    file.write_bytes(edited(EXCLUDED.encode(), edits))
    videos = list_videos(tmp_path / "lab", "all")
    try:
        kept = exclude(videos, file)
    except DataError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert str(file) in refusal
        return
    taken = {video.path.name for video in videos.videos} - {video.path.name for video in kept.videos}
    assert taken or not read_quarantine(file) or kept.warnings()
    assert all(len(line.splitlines()) == 1 for line in kept.warnings())
