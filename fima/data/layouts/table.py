"""A table of videos: a CSV or Parquet file with the columns path, label and split."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from fima.data.layouts.files import is_video
from fima.data.layouts.kinetics import find_lists
from fima.data.layouts.lists import inside
from fima.data.layouts.rows import TABLE_SUFFIXES, Rows, label_in, read_columns, read_rows
from fima.data.layouts.splits import leaked_links, looks_like_split, one_sided_classes, split_of
from fima.data.layouts.video_list import Layout, Request, Video, VideoList, none_there, noted
from fima.errors import DataError

GROUP_COLUMN = "group"
"""The column that says, unless another is named, which videos belong together."""
LABELS = frozenset({"labels", "class", "category", "action"})
"""Names of a column of labels, where none is called `label`."""
PATHS = frozenset({"file", "file_name", "filename", "filepath", "name", "video", "video_path"})
"""Names that a column of paths often has; it must be called `path`, since some hold less than a path."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    where: str
    path: Path
    label: str | None
    split: str


def list_table(request: Request) -> VideoList:
    """List a table's videos. Paths are relative to the folder of videos, which is the table's own unless given.

    Absolute ones have to lie below that folder, unless the table itself is given as the data: one that comes with a
    folder of videos must not add files that nobody has chosen.
    Classes are the labels of all splits, in the order of their numbers, or of their names where not all are numbers.
    The test split is the rows `test`, or the rows `val` where there is none. Raises DataError where the table cannot be
    read, contradicts itself, or has no video of the split that is there.
    """
    table = find_table(request.root, request.annotations)
    assert table is not None
    root = request.root if request.root.is_dir() else request.root.parent
    content = read_rows(table)
    if "path" not in content.columns:
        found = ", ".join(content.columns) or "none"
        renamed = next((f"; rename {name} to path" for name in content.columns if name in PATHS), "")
        expected = "expected the header path,label or path,label,split, with others such as group"
        raise DataError(f"{table}: has no column path; {expected}, found {found}{renamed}")
    labels = _name_labels(table, content)
    rows, notes = _parse(table, content, root, anywhere=request.root == table)
    splits = {row.split for row in rows}
    if request.split == "test" and not splits & {"val", "test"}:
        known = _split_column(content) is not None
        reason = f"has only rows of {', '.join(sorted(splits))}" if known else "has no column split"
        folds = (
            f"; to evaluate, --cross-validation {GROUP_COLUMN} needs none" if GROUP_COLUMN in content.columns else ""
        )
        raise DataError(f"{table}: {reason}, so no test split; add a column split with train and test{folds}")
    tested = "test" if "test" in splits else "val"
    names = {"train": {"train"}, "all": splits, "test": {tested}}[request.split]
    wanted = [row for row in rows if row.split in names]
    classes = _classes(rows)
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    missing = [str(row.path) for row in wanted if not _is_there(row.path)]
    sides = [[row.label for row in rows if row.label is not None and row.split == side] for side in ("train", tested)]
    gone = set(missing)
    videos = [Video(row.path, label_of.get(row.label)) for row in wanted if str(row.path) not in gone]
    if not videos:
        remedy = "; --data.dataset folder reads the folder without it" if request.root.is_dir() else ""
        raise DataError(f"{table}: {none_there(request.split, len(wanted), missing)}{remedy}")
    return VideoList(
        videos=sorted(videos, key=lambda video: video.path),
        classes=classes,
        root=root,
        split=request.split,
        layout=f"table {table.name}" + (", rows val" if request.split == "test" and names == {"val"} else ""),
        table=table,
        missing=missing,
        num_listed=len(wanted),
        notes=[*labels, *notes, *one_sided_classes(*sides), *_leaked(rows, tested)],
    )


def _leaked(rows: Sequence[_Row], tested: str) -> list[str]:
    """Say which files are in training and in the test part by two names."""
    names: dict[tuple[int, int], list[Path]] = {}
    for row in rows if {row.split for row in rows} >= {"train", tested} else ():
        with suppress(OSError, ValueError):  # a name with a zero byte
            status = row.path.stat()
            names.setdefault((status.st_dev, status.st_ino), []).append(row.path)
    same = [paths for paths in names.values() if len(paths) > 1]
    return leaked_links(same, {row.path: row.split for row in rows}, tested)


def find_table(root: Path, annotations: str | Path | None) -> Path | None:
    """Return the table: the root itself, the annotations, or `videos.csv`, `.tsv` or `.parquet` in the root.

    A `videos.csv` without a column `path` that nobody asked for is somebody's own.
    """
    if root.is_file():
        candidates = [root] if annotations is None else []
    elif annotations is not None:
        candidates = [Path(annotations)]
    else:
        candidates = [root / f"videos{suffix}" for suffix in TABLE_SUFFIXES]
        candidates = [path for path in candidates if path.suffix == ".parquet" or "path" in read_columns(path)]
    tables = (path for path in candidates if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES)
    return next((path for path in tables if not find_lists(root, path)), None)


def table_columns(root: Path, annotations: str | Path | None) -> list[str]:
    """Return the names of a table's columns; nothing where the root is not read as a table."""
    table = find_table(root, annotations)
    return [] if table is None else read_rows(table).columns


def read_groups(videos: VideoList, root: Path, annotations: str | Path | None) -> dict[Path, str]:
    """Return what the column `group` says of each video of a table; nothing where there is no such column."""
    is_there = videos.table is not None and GROUP_COLUMN in table_columns(root, annotations)
    return read_column(root, annotations, GROUP_COLUMN) if is_there else {}


def read_column(root: Path, annotations: str | Path | None, name: str) -> dict[Path, str]:
    """Return what a further column of a table says of each video, such as its fold; empty text where nothing.

    Raises DataError where there is no table or no such column.
    """
    table = find_table(root, annotations)
    if table is None:
        remedy = "give a table, or --folds N with --group-by and a regular expression for the paths"
        raise DataError(f"{root}: no table of videos, so it has no column {name}; {remedy}")
    content, name = read_rows(table), name.casefold()
    if name not in content.columns:
        raise DataError(f"{table}: has no column {name}; it has {', '.join(content.columns)}")
    places = Places(root if root.is_dir() else root.parent, content, anywhere=root == table)
    found: dict[Path, tuple[str, str]] = {}
    for where, fields in content.rows:
        if fields["path"]:
            value, first = found.setdefault(places.find(fields["path"], where), (fields[name], where))
            if value != fields[name]:
                raise DataError(f"{where}: {fields['path']} has another {name} than in {first}")
    return {path: value for path, (value, _) in found.items()}


def _name_labels(table: Path, content: Rows) -> list[str]:
    """Call the column of labels `label` where it has another name that is unmistakable; a note on what was done."""
    if "label" in content.columns:
        return []
    alike = [name for name in content.columns if name in LABELS and name != _split_column(content)]
    if len(alike) == 1:
        content.columns[content.columns.index(alike[0])] = "label"
        for _, fields in content.rows:
            fields["label"] = fields.pop(alike[0])
        return [f"{table}: the column {alike[0]} is read as the label"]
    others = [name for name in content.columns if name not in ("path", "split", "")]
    return [f"{table}: has no column label, so its videos have no class; it has {', '.join(others)}"] if others else []


def _parse(table: Path, content: Rows, root: Path, *, anywhere: bool) -> tuple[list[_Row], list[str]]:
    """Rows, and a note on each kind of row that was passed over."""
    column = _split_column(content)
    unreadable = list(content.unreadable)
    unlabelled: list[str] = []
    repeated: list[str] = []
    rows: dict[Path, _Row] = {}
    places = Places(root, content, anywhere=anywhere)
    for where, fields in content.rows:
        if not fields["path"]:
            unreadable.append(f"{where}: no path")
            continue
        path = places.find(fields["path"], where)
        name = fields[column] if column else "train"
        if (split := split_of(name)) is None:
            raise DataError(f"{where}: unknown split {name!r}; expected train, val, validation or test")
        row = _Row(where=where, path=path, label=label_in(fields), split=split)
        if row.label is None and fields.get("label"):
            unlabelled.append(f"{where}: {fields['label']!r} is no label")
        first = rows.setdefault(row.path, row)
        if (first.label, first.split) != (row.label, row.split):
            raise DataError(f"{where}: {fields['path']} has another label or split than in {first.where}")
        if first is not row:
            repeated.append(f"{where}: {fields['path']}")
    if not rows:
        raise DataError(f"{table}: has no row that can be read" + "".join(f"; {reason}" for reason in unreadable[:1]))
    kinds = {"unreadable row": unreadable, "repeated row": repeated, "unlabelled row": unlabelled}
    notes = [note for what, which in kinds.items() for note in noted(which, what, "")]
    if column not in (None, "split"):
        notes.append(f"{table}: the column {column} is read as the split, since it has only names of splits")
    others = [name for name in content.columns if name not in ("path", "label")]
    unread = [name for name in others if looks_like_split(name)]
    unread += [name for name in others if len({split_of(fields[name]) for _, fields in content.rows} - {None}) > 1]
    if column is None and unread:
        notes.append(f"{table}: the column {unread[0]} is not read; a column split with train and test is")
    return [*rows.values()], notes


def _split_column(content: Rows) -> str | None:
    """Return the column of splits: `split`, or another one that has nothing but names of splits."""
    if "split" in content.columns:
        return "split"
    others = (name for name in content.columns if name not in ("path", "label"))
    return next((name for name in others if all(split_of(fields[name]) for _, fields in content.rows)), None)


class Places:
    """Where the listed paths lead: below the folder of videos, or `anywhere` if they are absolute."""

    def __init__(self, root: Path, content: Rows, *, anywhere: bool) -> None:
        self.root, self.anywhere = root, anywhere
        self._listed = {root / fields["path"] for _, fields in content.rows}
        self._there: dict[Path, dict[str, Path]] = {}

    def find(self, name: str, where: str) -> Path:
        """Return the file of a listed path, also where its extension, or the form of its accents, is another one.

        So it is after `fima prepare`, and on other systems. Raises DataError for one that leads out of the folder.
        """
        path = self._path(Path(name), name, where)
        if _is_there(path):
            return path
        if not _is_there(path.parent):
            return path
        if path.parent not in self._there:
            videos = sorted(each for each in path.parent.glob("*") if is_video(each.name))
            others = (each for each in videos if each not in self._listed)
            self._there[path.parent] = {normalize("NFC", each.stem): each for each in others}
        there = self._there[path.parent]
        return there.get(normalize("NFC", path.name)) or there.get(normalize("NFC", path.stem)) or path

    def _path(self, path: Path, name: str, where: str) -> Path:
        if not path.is_absolute():
            return _relative(name, self.root, where)
        # Without `..`, links left as they are.
        lexical, top = (Path(os.path.normpath(each)) for each in (path, self.root.absolute()))
        folder = next((each for each in (top, self.root.resolve()) if lexical.is_relative_to(each)), None)
        if folder is not None:
            return self.root / lexical.relative_to(folder)  # as a relative one would be: no video by two names
        if self.anywhere:
            return lexical
        remedy = "if that is meant, give the table itself as the data"
        raise DataError(f"{where}: {path} lies outside the folder of videos, {self.root}; {remedy}")


def _is_there(path: Path) -> bool:
    """Whether a path leads to something: not if it is too long, or goes through a folder that may not be entered."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for these


def _relative(name: str, root: Path, where: str) -> Path:
    """Return a path below the folder of videos, in either kind of slash."""
    path = root / inside(name, where)
    other = name.replace("\\", "/")
    return path if other == name or _is_there(path) else root / inside(other, where)


def _classes(rows: Sequence[_Row]) -> list[str]:
    labels = {row.label for row in rows if row.label is not None}
    try:
        return sorted(labels, key=lambda label: (float(label), label))
    except ValueError:
        return sorted(labels)


LAYOUT = Layout(
    name="table",
    title="a table of videos",
    looked_for="a .csv, .tsv or .parquet file with the columns path,label[,split], or one called videos in the folder",
    recognise=lambda root, annotations: find_table(root, annotations) is not None,
    list_videos=list_table,
)
