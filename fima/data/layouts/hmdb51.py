"""HMDB51: class folders of videos, and one list for each class and split."""

import re
from functools import partial

from fima.data.layouts import lists
from fima.data.layouts.files import find_files
from fima.data.layouts.lists import Entry
from fima.data.layouts.video_list import Layout, Request, VideoList
from fima.errors import DataError

PATTERNS = ("[!.]*_test_split[1-9].txt",)
VIDEO_FOLDERS = ("data", "videos", "hmdb51_org", "hmdb51", "HMDB51")
NUM_CLASSES = 51
SPLIT_OF_FLAG = {"0": "neither", "1": "train", "2": "test"}
OFFICIAL = {"train": 3_570, "test": 1_530}


def list_hmdb51(request: Request) -> VideoList:
    """List `<class>/<video>` below `data/` (or `videos/`) by `<class>_test_split1.txt`: 1 train, 2 test, 0 neither."""
    anno = lists.require_list_folder(request, PATTERNS)
    ending = f"_test_split{request.split_index}.txt"
    classes = sorted(path.name.removesuffix(ending) for path in anno.glob(f"[!.]*{ending}"))
    if not classes:
        there = sorted({int(path.stem[-1]) for path in anno.glob(PATTERNS[0])})
        raise DataError(f"{anno}: no <class>{ending}; there are {there}")
    folder = lists.class_folder_parent(request.root, VIDEO_FOLDERS, classes)
    label_of = {name: label for label, name in enumerate(classes)}
    entries: list[Entry] = []
    for name in classes:
        for where, line in lists.numbered_lines(anno / f"{name}{ending}"):
            match = re.fullmatch(r"(?P<video>.+?)\s+(?P<flag>[012])", line)
            if match is None:
                raise DataError(f"{where}: cannot read {line!r}; expected a file name and 0, 1 or 2")
            video = name / lists.inside(match["video"], where)
            entries.append(lists.path_entry(folder, video, label_of[name], SPLIT_OF_FLAG[match["flag"]]))
    return lists.join(
        request,
        find_files(folder),
        entries,
        classes,
        layout="HMDB51" if request.split == "all" else f"HMDB51, split {request.split_index}",
        expected=lists.expected_videos(request, OFFICIAL, certain=len(classes) == NUM_CLASSES),
        folder_labels=label_of,
    )


LAYOUT = Layout(
    name="hmdb51",
    title="HMDB51",
    looked_for="<class>_test_split1.txt in anno/ or testTrainMulti_7030_splits/",
    recognise=partial(lists.has_lists, PATTERNS),
    list_videos=list_hmdb51,
    numbered_splits=True,
)
