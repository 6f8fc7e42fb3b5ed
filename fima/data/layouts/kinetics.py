"""Kinetics-400: split folders with class folders, or the official CSV files with any folder of videos."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fima.data.layouts import lists
from fima.data.layouts.files import find_files
from fima.data.layouts.folder import refuse_copies, split_folders
from fima.data.layouts.lists import Entry
from fima.data.layouts.rows import label_in, read_columns, read_rows
from fima.data.layouts.splits import split_of
from fima.data.layouts.video_list import Layout, Request, VideoList, noted
from fima.errors import DataError

COLUMNS = ("youtube_id", "time_start", "time_end")
OFFICIAL_FOLDERS = ("train_256", "val_256")


def list_kinetics(request: Request) -> VideoList:
    """List Kinetics-400; its test split is the validation videos, where there are any."""
    csv_files = find_lists(request.root, request.annotations)
    return _by_lists(request, csv_files) if csv_files else _by_folders(request)


def find_lists(root: Path, annotations: Path | None) -> list[Path]:
    """Return the CSV files with Kinetics' columns: the annotations, or those in a usual place below the root."""
    groups = [sorted(place.glob("[!.]*.csv")) for place in lists.list_places(root, annotations)]
    if annotations is not None and annotations.is_file():
        groups = [[annotations]]
    for paths in groups:
        found = [path for path in paths if path.suffix.lower() == ".csv" and set(COLUMNS) <= {*read_columns(path)}]
        if found:
            return found
    return []


def _by_folders(request: Request) -> VideoList:
    files = find_files(request.root)
    files = replace(files, videos=[path for path in files.videos if split_of(path.parts[0])])
    refuse_copies(files)
    listed = split_folders(request, files, 0, notes=files.notes(), tested="val", spaced=True)
    return replace(listed, layout=f"Kinetics-400, {listed.layout}")


def _by_lists(request: Request, csv_files: Sequence[Path]) -> VideoList:
    rows: list[tuple[str, str | None, str, int, int]] = []
    notes: list[str] = []
    for path in csv_files:
        content = read_rows(path)
        in_name = next((name for name in ("train", "val", "test") if name in path.stem), path.stem)
        notes += noted(content.unreadable, "unreadable row", "")
        for where, row in content.rows:
            given = row.get("split", in_name)
            split = split_of(given)
            if split is None:
                raise DataError(f"{where}: unknown split {given!r}; expected train, validate or test")
            name = lists.plain_name(row["youtube_id"], where)
            start, end = (_seconds(row[column], column, where) for column in ("time_start", "time_end"))
            rows.append((split, label_in(row), name, start, end))
    files = find_files(request.root)
    folders = {path.parent.name for path in files.videos}
    classes = sorted({label for _, label, *_ in rows if label is not None})
    if not classes and len(folders) > 1 and not any(name == "" or split_of(name) for name in folders):
        classes = sorted({_spaced(name) for name in folders})
        notes.append(f"the lists have no labels: those of {len(classes)} folders are used, such as {classes[0]}")
    label_of = {name: label for label, name in enumerate(classes)}
    tested = "val" if any(split == "val" for split, *_ in rows) else "test"
    videos = {"val": "validate", "test": "test"}[tested]
    layout = "Kinetics-400, official list" + (f" ({videos} videos)" if request.split == "test" else "")
    entries = [
        _entry(name, start, end, label, {tested: "test", "train": "train"}.get(split, "neither"), label_of)
        for split, label, name, start, end in rows
    ]
    numbers = {_spaced(name): label for name, label in label_of.items()}
    of_folders = {name: numbers[_spaced(name)] for name in folders if _spaced(name) in numbers}
    found = lists.join(request, files, entries, classes, layout=layout, folder_labels=of_folders)
    return replace(found, notes=[*notes, *found.notes])


def _entry(name: str, start: int, end: int, label: str | None, split: str, label_of: dict[str, int]) -> Entry:
    clip = f"{name}_{start:06d}_{end:06d}"
    folder = _spaced(label or "")
    return Entry(
        # The same name may lie in several folders: the one named after the class is meant.
        keys=(f"//{folder}/{clip}", f"//{clip}", f"//{folder}/{name}", f"//{name}"),
        shown=f"{label}/{clip}" if label else clip,
        label=None if label is None else label_of[label],
        split=split,
    )


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _seconds(text: str, column: str, where: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise DataError(f"{where}: {column} is {text!r}, expected seconds") from None


def _is_kinetics(root: Path, annotations: Path | None) -> bool:
    folders = annotations is None and any((root / name).is_dir() for name in OFFICIAL_FOLDERS)
    return folders or (root.is_dir() and bool(find_lists(root, annotations)))


def _may_be_kinetics(root: Path, annotations: Path | None) -> bool:
    places = root.iterdir() if annotations is None and root.is_dir() else ()
    return _is_kinetics(root, annotations) or any(split_of(path.name) for path in places if path.is_dir())


LAYOUT = Layout(
    name="k400",
    title="Kinetics-400",
    looked_for="train_256/ and val_256/ with a folder for each class, or a CSV with youtube_id, time_start, time_end",
    recognise=_is_kinetics,
    accepts=_may_be_kinetics,
    list_videos=list_kinetics,
)
