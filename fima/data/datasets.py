"""Finding the videos of a data set, with labels and a train/test split where it has them."""

import os
from dataclasses import replace
from pathlib import Path

from fima.config import Dataset
from fima.data.layouts import diving48, folder, hmdb51, kinetics, ssv2, table, ucf101
from fima.data.layouts.video_list import Layout, Request, Split, Video, VideoList
from fima.errors import DataError, near_path

__all__ = ["Split", "Video", "VideoList", "list_videos", "recognise"]

LAYOUTS: list[Layout] = [each.LAYOUT for each in (table, ucf101, hmdb51, diving48, ssv2, kinetics, folder)]
"""In the order in which they are tried: a plain folder is what nothing else is."""


def list_videos(
    root: Path,
    split: Split = "train",
    split_index: int = 1,
    *,
    dataset: Dataset = "auto",
    annotations: str | Path | None = None,
) -> VideoList:
    """List the videos of a data set. `docs/datasets.md` shows the folder tree of each.

    Videos are recognised by their extension. Hidden files and folders are passed over, links are followed. Videos that
    a list names but that are not there, and the other way round, are in the result and in its `warnings()`.

    Args:
        root: the folder; or a table, a CSV or Parquet file.
        split: which part of it.
        split_index: number of the official split, for UCF101 and HMDB51.
        dataset: how the folder is to be read; `auto` recognises it.
        annotations: list file or folder of list files, where they lie apart from the videos.

    Returns:
        At least one video, sorted by path.

    Raises:
        DataError: the folder is missing, unreadable or empty, has another layout, no video, or not the split that was
            asked for.
    """
    root = Path(root)
    lists = _checked(root, annotations)
    layout = _recognised(root, lists) if dataset == "auto" else _named(dataset, root, lists)
    if split_index != 1 and not layout.numbered_splits:
        raise DataError(f"{root}: split {split_index} was asked for, but {layout.title} has only one; ask for split 1")
    named = dataset != "auto"
    request = Request(root=root, annotations=lists, split=split, split_index=split_index, named=named)
    return replace(layout.list_videos(request), dataset=layout.name)


def recognise(root: Path, annotations: str | Path | None = None) -> Dataset:
    """Return the name of the data set that `auto` takes a folder for, without listing its videos.

    Raises DataError where the folder is missing or unreadable, or the annotations are of no known data set.
    """
    root = Path(root)
    return _recognised(root, _checked(root, annotations)).name


def _checked(root: Path, annotations: str | Path | None) -> Path | None:
    """The annotations as a path; both places are there and can be read."""
    if not root.exists():
        raise DataError(f"{root}: no such folder{near_path(root) or '; give the folder that holds the videos'}")
    if root.is_file() and table.find_table(root, None) is None:
        raise DataError(
            f"{root}: is a file; give the folder that holds the videos ({root.parent}), or a table with the columns "
            "path,label; official lists go to --data.annotations"
        )
    lists = None if annotations is None else Path(annotations)
    if lists is not None and not lists.exists():
        raise DataError(f"{lists}: no such annotations; give a list file or the folder of the list files")
    for place in (root, lists):
        if place is not None and not os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)):
            raise DataError(f"{place}: cannot be read; change its permissions")
    return lists


def _recognised(root: Path, annotations: Path | None) -> Layout:
    layout = next((layout for layout in LAYOUTS if layout.recognise(root, annotations)), None)
    if layout is None:
        known = "; ".join(f"{layout.title}: {layout.looked_for}" for layout in LAYOUTS if layout is not folder.LAYOUT)
        raise DataError(f"{annotations}: no annotations of a known data set for {root}. Known are: {known}")
    return layout


def _named(dataset: Dataset, root: Path, annotations: Path | None) -> Layout:
    layout = next(layout for layout in LAYOUTS if layout.name == dataset)
    if not layout.may_be(root, annotations):
        other = _recognised(root, annotations)
        where = root if annotations is None else f"{root} with {annotations}"
        raise DataError(
            f"{where}: is not {layout.title}: looked for {layout.looked_for}. It looks like {other.title}; "
            f"use --data.dataset {other.name} (in fima evaluate, --dataset {other.name})"
        )
    return layout
