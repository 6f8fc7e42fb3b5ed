"""UCF101: class folders of videos, and three pairs of lists."""

import re
from functools import partial
from pathlib import Path

from fima.data.layouts import lists
from fima.data.layouts.files import find_files
from fima.data.layouts.lists import Entry
from fima.data.layouts.video_list import Layout, Request, VideoList
from fima.errors import DataError

PATTERNS = ("trainlist0*.txt", "testlist0*.txt")
VIDEO_FOLDERS = ("data", "UCF-101", "UCF101", "videos")
NUM_CLASSES = 101
OFFICIAL = {
    1: {"train": 9_537, "test": 3_783, "all": 13_320},
    2: {"train": 9_586, "test": 3_734, "all": 13_320},
    3: {"train": 9_624, "test": 3_696, "all": 13_320},
}


def list_ucf101(request: Request) -> VideoList:
    """List `<Class>/<video>` below `data/` (or `UCF-101/`) by `classInd.txt`, `trainlist01.txt`, `testlist01.txt`, …"""
    anno = lists.require_list_folder(request, PATTERNS)
    index_file = anno / "classInd.txt"
    numbers = _read_classes(index_file) if index_file.is_file() else {}
    classes = list(numbers.values())
    folder = lists.class_folder_parent(request.root, VIDEO_FOLDERS, classes)
    files = find_files(folder)
    classes = classes or sorted({path.parent.name for path in files.videos})
    label_of = {name: label for label, name in enumerate(classes)}
    if request.split != "all":
        lists.require_list_file(anno / f"{request.split}list{request.split_index:02d}.txt", "*list0*.txt")
    entries: list[Entry] = []
    number_of_list = f"list{request.split_index:02d}"
    # Also testlist01_swapped.txt and the like, of counterparts of test videos; nothing that macOS keeps beside files.
    for list_file in sorted(anno.glob(f"[!.]*{number_of_list}*.txt")):
        split = list_file.name.removesuffix(f"{number_of_list}.txt")
        for where, line in lists.numbered_lines(list_file):
            name, number = _parse(line, where)
            path = lists.inside(name, where)
            if numbers and path.parts[0] not in label_of:
                raise DataError(f"{where}: {name} is of no class in {index_file}")
            if numbers and number is not None and numbers.get(number) != path.parts[0]:
                raise DataError(f"{where}: {name} has the number {number}, which is another class in {index_file}")
            entries.append(lists.path_entry(folder, path, label_of.get(path.parts[0]), split))
    official = OFFICIAL.get(request.split_index, {})
    return lists.join(
        request,
        files,
        entries,
        classes,
        layout="UCF101" if request.split == "all" else f"UCF101, split {request.split_index}",
        expected=lists.expected_videos(request, official, certain=len(classes) == NUM_CLASSES),
        folder_labels=label_of,
    )


def _read_classes(index_file: Path) -> dict[int, str]:
    """Class names by their number in `classInd.txt` ("1 ApplyEyeMakeup"), in the order of the numbers."""
    names: dict[int, str] = {}
    for where, line in lists.numbered_lines(index_file):
        number, _, name = line.partition(" ")
        if not number.isdecimal() or not name.strip() or int(number) in names:
            raise DataError(f"{where}: cannot read the line {line!r}; expected a new number and a class name")
        names[int(number)] = name.strip()
    return dict(sorted(names.items()))


def _parse(line: str, where: str) -> tuple[str, int | None]:
    """Path and class number of "Class/v_Class_g01_c01.avi 1", of which the test lists leave the number out."""
    match = re.fullmatch(r"(?P<path>.+?)(?:\s+(?P<number>\d+))?", line)
    if match is None or "/" not in match["path"]:
        raise DataError(f"{where}: cannot read {line!r}; expected a line such as 'Archery/v_Archery_g08_c01.avi 3'")
    return match["path"], None if match["number"] is None else int(match["number"])


LAYOUT = Layout(
    name="ucf101",
    title="UCF101",
    looked_for="trainlist01.txt in anno/ or ucfTrainTestlist/",
    recognise=partial(lists.has_lists, PATTERNS),
    list_videos=list_ucf101,
    numbered_splits=True,
)
