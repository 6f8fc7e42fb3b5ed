from pathlib import Path

import pytest

from fima.config import Dataset
from fima.data.datasets import LAYOUTS, list_videos, recognise
from fima.errors import DataError
from tests.layout_files import write_lines, write_videos


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51", "diving48", "ssv2", "table", "folder"])
def test_another_layout_than_named(dataset: Dataset, tmp_path: Path) -> None:
    write_videos(tmp_path, "train_256/a/a.mp4", "train_256/b/b.mp4")
    if dataset == "folder":
        assert len(list_videos(tmp_path, dataset=dataset).videos) == 2
        return
    with pytest.raises(DataError, match=r"looked for .*It looks like Kinetics-400; use --data\.dataset k400") as error:
        list_videos(tmp_path, dataset=dataset)
    assert next(layout.looked_for for layout in LAYOUTS if layout.name == dataset) in str(error.value)


def test_kinetics_named_on_a_plain_folder(tmp_path: Path) -> None:
    write_videos(tmp_path, "a/a.mp4", "b/b.mp4")
    with pytest.raises(DataError, match=r"looks like a plain folder of videos; use --data\.dataset folder"):
        list_videos(tmp_path, dataset="k400")


def test_annotations_are_never_passed_over(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", "a/a.mp4", "b/b.mp4")
    notes = write_lines(tmp_path / "notes/readme.txt", "nothing")
    with pytest.raises(DataError, match=r"gone: no such annotations"):
        list_videos(tmp_path / "videos", annotations=tmp_path / "gone")
    for annotations in (notes, notes.parent):
        with pytest.raises(DataError, match=r"no annotations of a known data set .*UCF101: trainlist01\.txt"):
            list_videos(tmp_path / "videos", annotations=annotations)
    table = write_lines(tmp_path / "t.csv", "path,label", "a/a.mp4,x")
    with pytest.raises(DataError, match=r"is not a plain folder of videos.*looks like a table of videos"):
        list_videos(tmp_path / "videos", dataset="folder", annotations=table)


@pytest.mark.parametrize("dataset", ["auto", "folder"])
def test_only_numbered_splits_have_a_second(dataset: Dataset, tmp_path: Path) -> None:
    write_videos(tmp_path, "a/a.mp4", "b/b.mp4")
    with pytest.raises(DataError, match="split 2 was asked for, but a plain folder of videos has only one"):
        list_videos(tmp_path, "train", 2, dataset=dataset)


def test_official_lists_given_as_the_data(tmp_path: Path) -> None:
    csv = write_lines(tmp_path / "k.csv", "label,youtube_id,time_start,time_end,split", "x,AbCdEfGhIjK,0,10,train")
    with pytest.raises(DataError, match=r"k\.csv: is a file; .*official lists go to --data\.annotations"):
        recognise(csv)


def test_every_data_set_is_recognised_by_one_layout() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS) == 7
