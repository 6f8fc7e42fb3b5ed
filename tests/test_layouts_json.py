import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fima.data.datasets import list_videos, recognise
from fima.errors import DataError
from tests.layout_files import labelled, write_videos

LABELS = {"Holding something": "1", "Pushing something from left to right": "0"}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_ssv2(root: Path, prefix: str, train: Sequence[dict[str, Any]] = ()) -> None:
    write_videos(root / "20bn-something-something-v2", *(f"{number}.webm" for number in (1, 2, 10, 30, 99)))
    write_json(root / f"{prefix}labels.json", LABELS)
    write_json(
        root / f"{prefix}train.json",
        train
        or [
            {"id": "2", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]},
            {"id": "10", "label": "…", "template": "Pushing [something] from left to right", "placeholders": ["…"]},
            {"id": "77", "label": "…", "template": "Holding [something]", "placeholders": ["…"]},
        ],
    )
    write_json(root / f"{prefix}validation.json", [{"id": "1", "template": "Holding [something]"}])
    write_json(root / f"{prefix}test.json", [{"id": "30"}])


@pytest.mark.parametrize(
    "prefix",
    ["", "something-something-v2-", "labels/", "anno/something-something-v2-", "20bn-…-package-labels/labels/"],
)
def test_ssv2(prefix: str, tmp_path: Path) -> None:
    write_ssv2(tmp_path, prefix)
    assert recognise(tmp_path) == "ssv2"
    folder = "20bn-something-something-v2"
    train, test = list_videos(tmp_path), list_videos(tmp_path, "test")
    assert train.classes == ["Pushing something from left to right", "Holding something"]
    assert labelled(train) == {
        f"{folder}/10.webm": "Pushing something from left to right",
        f"{folder}/2.webm": "Holding something",
    }
    assert train.missing == ["77.webm"]
    assert train.unlisted == [str(tmp_path / folder / "99.webm")]
    assert labelled(test) == {f"{folder}/1.webm": "Holding something"}
    assert test.layout == "Something-Something V2, validation"
    everything = list_videos(tmp_path, "all")
    assert len(everything.videos) == 5
    assert labelled(everything)[f"{folder}/30.webm"] is None
    assert list_videos(tmp_path, "test", dataset="ssv2").expected == 24_777


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "2", "template": "Eating [something]"}, "entry 1: the template 'Eating something' is not in"),
        ({"id": "2"}, "entry 1: expected an object with id, template"),
        ({"id": "../2", "template": "Holding [something]"}, r"entry 1: '\.\./2' is not the name of a video"),
        ({"id": ["2"], "template": "Holding [something]"}, "entry 1: .* is not the name of a video"),
        ({"id": "3", "template": "Holding [something]"}, r"none of the videos of the train split is there \(1 listed"),
    ],
)
def test_ssv2_bad_entries(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_ssv2(tmp_path, "", [entry])
    with pytest.raises(DataError, match=message):
        list_videos(tmp_path)


def test_ssv2_bad_files(tmp_path: Path) -> None:
    write_ssv2(tmp_path, "")
    (tmp_path / "train.json").unlink()
    with pytest.raises(DataError, match=r"train\.json: no such split file; .* has labels\.json, test\.json, val"):
        list_videos(tmp_path)
    (tmp_path / "labels.json").write_text('{"Holding something": "0"')
    with pytest.raises(DataError, match=r"labels\.json: is not JSON"):
        list_videos(tmp_path)
    write_json(tmp_path / "labels.json", {"Holding something": "1"})
    with pytest.raises(DataError, match=r"labels\.json: expected an object that numbers the templates from 0"):
        list_videos(tmp_path)


def test_labels_of_something_else(tmp_path: Path) -> None:
    write_ssv2(tmp_path, "")
    write_json(tmp_path / "labels.json", {"10.webm": "cat"})
    assert recognise(tmp_path) == "folder"


def write_diving48(root: Path, *, vocabulary: bool = True, **train: Any) -> None:  # noqa: ANN401
    write_videos(root / "rgb", *(f"-mvmPq6Ic_M_0000{number}.mp4" for number in range(4)))
    first = {"vid_name": "-mvmPq6Ic_M_00000", "label": 1, "start_frame": 0, "end_frame": 4, **train}
    gone = {"vid_name": "gone_00001", "label": 0, "start_frame": 0, "end_frame": 4}
    write_json(root / "Diving48_V2_train.json", [first, gone])
    write_json(root / "Diving48_V2_test.json", [{**first, "vid_name": "-mvmPq6Ic_M_00002", "label": 0}])
    if vocabulary:
        write_json(
            root / "Diving48_vocab.json", [["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "PIKE"]]
        )


def test_diving48(tmp_path: Path) -> None:
    write_diving48(tmp_path)
    assert recognise(tmp_path) == "diving48"
    train, test = list_videos(tmp_path), list_videos(tmp_path, "test")
    assert train.classes == test.classes == ["Back 15som 05Twis FREE", "Forward Dive NoTwis PIKE"]
    assert labelled(train) == {"rgb/-mvmPq6Ic_M_00000.mp4": "Forward Dive NoTwis PIKE"}
    assert labelled(test) == {"rgb/-mvmPq6Ic_M_00002.mp4": "Back 15som 05Twis FREE"}
    assert train.missing == ["gone_00001.mp4"]
    assert len(train.unlisted) == 2
    assert train.notes == ["only in the training split: Forward Dive NoTwis PIKE (1 of 2 classes)"]
    assert len(list_videos(tmp_path, "all").videos) == 4


def test_diving48_without_vocabulary(tmp_path: Path) -> None:
    write_diving48(tmp_path, vocabulary=False, label=7)
    assert list_videos(tmp_path).classes == [str(number) for number in range(8)]


def test_diving48_entries_inside_a_file_are_named(tmp_path: Path) -> None:
    write_diving48(tmp_path, start_frame=30)
    assert any(
        "2 listed clips with a start inside the file, such as -mvmPq6Ic_M_00000" in note
        for note in list_videos(tmp_path).notes
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"label": 2},
            r"Diving48_V2_train\.json, entry 1: the label is 2, expected 0 to 1, as in Diving48_vocab\.json",
        ),
        ({"label": "1"}, "entry 1: the label is '1'"),
        ({"label": True}, "entry 1: the label is True"),
        ({"vid_name": "/etc/x"}, "entry 1: '/etc/x' is not the name of a video"),
    ],
)
def test_diving48_bad_entries(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_diving48(tmp_path, **changed)
    with pytest.raises(DataError, match=message):
        list_videos(tmp_path)


def test_diving48_bad_files(tmp_path: Path) -> None:
    write_diving48(tmp_path)
    (tmp_path / "Diving48_V2_test.json").unlink()
    with pytest.raises(DataError, match=r"Diving48_V2_test\.json: no such split file"):
        list_videos(tmp_path, "test")
    write_json(tmp_path / "Diving48_V2_train.json", {"a": 1})
    with pytest.raises(DataError, match="expected a list of objects with vid_name, label, found a dict"):
        list_videos(tmp_path)
