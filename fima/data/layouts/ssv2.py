"""Something-Something V2: JSON lists next to the videos."""

from pathlib import Path

from fima.data.layouts import lists
from fima.data.layouts.files import find_files
from fima.data.layouts.lists import Entry
from fima.data.layouts.video_list import Layout, Request, VideoList
from fima.errors import DataError

PREFIXES = ("something-something-v2-", "")
PATTERNS = tuple(f"{prefix}labels.json" for prefix in PREFIXES)
LISTS = {"train": "train", "test": "validation"}
NUM_CLASSES = 174
OFFICIAL = {"train": 168_913, "test": 24_777, "all": 220_847}


def list_ssv2(request: Request) -> VideoList:
    """List `<id>.webm`, wherever it lies below the root; the test split is the validation videos, which have labels."""
    anno = lists.require_list_folder(request, PATTERNS)
    label_file = _file(anno, "labels")
    label_of = _read_labels(label_file)
    if request.split != "all":
        lists.require_list_file(_file(anno, LISTS[request.split]), "*.json")
    entries: list[Entry] = []
    for split, name in LISTS.items():
        path = _file(anno, name)
        for where, item in lists.read_json_entries(path, "id", "template") if path.is_file() else []:
            template = str(item["template"]).replace("[", "").replace("]", "")
            if template not in label_of:
                raise DataError(f"{where}: the template {template!r} is not in {label_file}")
            entries.append(_entry(lists.plain_name(item["id"], where), label_of[template], split))
    unlabelled = _file(anno, "test")
    for where, item in lists.read_json_entries(unlabelled, "id") if unlabelled.is_file() else []:
        entries.append(_entry(lists.plain_name(item["id"], where), None, "unlabelled"))
    return lists.join(
        request,
        find_files(request.root),
        entries,
        sorted(label_of, key=label_of.__getitem__),
        layout=f"Something-Something V2{', validation' if request.split == 'test' else ''}",
        expected=lists.expected_videos(request, OFFICIAL, certain=len(label_of) == NUM_CLASSES),
    )


def _entry(name: str, label: int | None, split: str) -> Entry:
    return Entry(keys=(f"//{name}",), shown=f"{name}.webm", label=label, split=split)


def _file(anno: Path, kind: str) -> Path:
    paths = [anno / f"{prefix}{kind}.json" for prefix in PREFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def _read_labels(path: Path) -> dict[str, int]:
    """Number by template, of {"Approaching something with your camera": "0", …}."""
    content = lists.read_json(path)
    numbers = [str(number) for number in content.values()] if isinstance(content, dict) else []
    if not numbers or sorted(numbers) != sorted(str(number) for number in range(len(numbers))):
        raise DataError(f"{path}: expected an object that numbers the templates from 0")
    return {template: int(number) for template, number in content.items()}


def _list_folder(root: Path, annotations: Path | None) -> Path | None:
    anno = lists.list_folder(root, annotations, PATTERNS)
    there = anno is not None and any(_file(anno, name).is_file() for name in LISTS.values())
    return anno if there else None


def _is_ssv2(root: Path, annotations: Path | None) -> bool:
    """Other data sets have a `labels.json` too, but not one that numbers something; a damaged one is reported."""
    anno = _list_folder(root, annotations)
    if anno is None:
        return False
    try:
        content = lists.read_json(_file(anno, "labels"))
    except DataError:
        return True
    return isinstance(content, dict) and all(str(number).isdecimal() for number in content.values())


LAYOUT = Layout(
    name="ssv2",
    title="Something-Something V2",
    looked_for="labels.json with train.json or validation.json (also something-something-v2-labels.json, …)",
    recognise=_is_ssv2,
    accepts=lambda root, annotations: _list_folder(root, annotations) is not None,
    list_videos=list_ssv2,
)
