"""Diving48, second version of the labels: JSON lists next to the videos."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from fima.data.layouts import lists
from fima.data.layouts.files import find_files
from fima.data.layouts.lists import Entry
from fima.data.layouts.video_list import Layout, Request, VideoList, noted
from fima.errors import DataError

LIST_NAMES = {"train": "Diving48_V2_train.json", "test": "Diving48_V2_test.json"}
VOCABULARY = "Diving48_vocab.json"


def list_diving48(request: Request) -> VideoList:
    """List videos, wherever they lie below the root, by `Diving48_V2_train.json` and `…_test.json`."""
    anno = lists.require_list_folder(request, [*LIST_NAMES.values()])
    if request.split != "all":
        lists.require_list_file(anno / LIST_NAMES[request.split], "Diving48_V2_*.json")
    classes = _read_vocabulary(anno / VOCABULARY) if (anno / VOCABULARY).is_file() else []
    num_classes = len(classes)
    entries: list[Entry] = []
    cut: list[str] = []
    for split, list_name in LIST_NAMES.items():
        if not (anno / list_name).is_file():
            continue
        for where, item in lists.read_json_entries(anno / list_name, "vid_name", "label"):
            name, label = lists.plain_name(item["vid_name"], where), item["label"]
            if type(label) is not int or label < 0 or (num_classes and label >= num_classes):
                known = f"0 to {num_classes - 1}, as in {VOCABULARY}" if num_classes else "0, 1, 2, …"
                raise DataError(f"{where}: the label is {label!r}, expected {known}")
            if item.get("start_frame"):
                cut.append(name)
            entries.append(Entry(keys=(f"//{name}",), shown=f"{name}.mp4", label=label, split=split))
    if not classes:
        classes = [str(label) for label in range(1 + max((entry.label or 0 for entry in entries), default=0))]
    starts = noted(cut, "listed clip", " with a start inside the file", "; whole files are used")
    notes = [f"Diving48 V2: {note}" for note in starts]
    found = lists.join(request, find_files(request.root), entries, classes, layout="Diving48 V2")
    return replace(found, notes=[*notes, *found.notes])


def _read_vocabulary(path: Path) -> list[str]:
    """Class names of `Diving48_vocab.json`: a list of names, or of lists of words such as ["Back", "15som", …]."""
    content = lists.read_json(path)
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: expected a list of classes, found a {type(content).__name__}")
    return [" ".join(map(str, name)) if isinstance(name, list) else str(name) for name in content]


LAYOUT = Layout(
    name="diving48",
    title="Diving48 V2",
    looked_for="Diving48_V2_train.json and Diving48_V2_test.json",
    recognise=partial(lists.has_lists, [*LIST_NAMES.values()]),
    list_videos=list_diving48,
)
