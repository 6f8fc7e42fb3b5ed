"""A folder without list files: split folders, class folders, or videos at any depth."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from fima.data.layouts import splits
from fima.data.layouts.files import PREPARE_RECORD, Files, find_files
from fima.data.layouts.rows import read_columns
from fima.data.layouts.video_list import Layout, Request, Video, VideoList, noted
from fima.errors import DataError

HOLD_OUT_EVERY = 5
KNOWN_LISTS = re.compile(
    r"(train|test)list0\d\.txt|\w+_test_split\d\.txt|Diving48_V2_\w+\.json|something-something-v2-\w+\.json"
)
"""Names of list files of data sets that are read by them where they lie in usual places."""
SCALED = re.compile(r"(.+?)[\W_]+(?:\d{3,4}p?|\d{2,4}x\d{2,4}|resized|scaled|small)", re.IGNORECASE)
"""Names that people give to copies of a folder, `videos_256` of `videos`."""
HELD_OUT = f"every {HOLD_OUT_EVERY}th video of a class held out for testing"


def list_folder(request: Request) -> VideoList:
    """List a folder by what lies in it.

    - Split folders: `train/` and `val/` or `test/`, or other spellings of them, each with one folder a class; or the
      other way round, in each class folder. Other folders next to them are in no split.
    - Class folders: every video is in `<class>/<video>`, of at least two classes. Every fifth video of each class in
      sorted order is held out as the test split.
    - Anything else, at any depth, is a folder without labels: `train` and `all` are all its videos. That includes
      videos both at the root and in folders, and a single class folder.

    Raises:
        DataError: no video, not the split that was asked for, or two folders with the same videos.
    """
    root, split = request.root, request.split
    files = find_files(root)
    refuse_copies(files)
    notes = [*_unread_tables(root), *([] if request.named else _unread_lists(files)), *files.notes()]
    depth = splits.split_depth(files.videos)
    if depth is not None:
        return split_folders(request, files, depth, notes=notes)
    notes += splits.unread_splits(files.videos)
    classes = sorted({path.parts[0] for path in files.videos if path.parts})
    if len(classes) > 1 and all(len(path.parts) == 2 for path in files.videos):
        return _class_folders(request, files, classes, notes)
    odd = [path for path in files.videos if len(path.parts) != 2]
    notes += _unlabelled(odd) if 2 * len(odd) < len(files.videos) else []
    if split == "test":
        raise DataError(
            f"{root}: has no labels, so no test split; two folders or more, each with videos of a class, or a table "
            "of videos give them"
        )
    videos = [Video(root / path, None) for path in files.videos]
    return _listed(request, files, videos, [], layout="videos without labels", notes=notes)


def _listed(
    request: Request, files: Files, videos: list[Video], classes: list[str], *, layout: str, notes: list[str]
) -> VideoList:
    return VideoList(
        videos=videos,
        classes=classes,
        root=request.root,
        split=request.split,
        layout=layout,
        missing=files.missing,
        notes=notes,
    )


def split_folders(
    request: Request, files: Files, depth: int, *, notes: Sequence[str], tested: str = "test", spaced: bool = False
) -> VideoList:
    """List videos in `<split>/<class>/<video>` or `<class>/<split>/<video>`; without labels where not all lie so.

    Split folders lie `depth` below the root. Where there are both, the test split is the folder that `tested` names,
    `test` or `val`, and the other is in no split. With `spaced`, spaces and underscores in the names of classes are the
    same. Raises DataError where the split has no video.
    """
    split_by_path = {path: splits.split_of(path.parts[depth]) for path in files.videos if len(path.parts) > depth + 1}
    placed = {path: (*path.parts[:depth], *path.parts[depth + 1 : -1]) for path, name in split_by_path.items() if name}
    shared = len(os.path.commonprefix([*placed.values()]))  # noqa: RUF071 - of tuples of folders
    inner = {path: parts[shared:] for path, parts in placed.items()}

    def name_of(path: Path) -> str:
        return inner[path][0].replace("_", " ") if spaced else inner[path][0]

    labelled = all(len(parts) == 1 for parts in inner.values())
    names = {name_of(path): inner[path][0] for path in reversed(inner)} if labelled else {}
    label_of = {name: label for label, name in enumerate(sorted(names, key=names.__getitem__))}
    there = {split_by_path[path] for path in inner}
    other = {"test": "val", "val": "test"}[tested]
    tested = tested if tested in there else other
    wanted = {"train": "train", "test": tested}.get(request.split)
    videos = [
        Video(request.root / path, label_of[name_of(path)] if labelled and path in inner else None)
        for path in files.videos
        if request.split == "all" or (path in inner and split_by_path[path] == wanted)
    ]
    if not videos:
        kinds = ("train",) if wanted == "train" else ("val", "test")
        looked_for = ", ".join(word for kind in kinds for word in splits.SPELLINGS[kind])
        found = ", ".join(sorted({path.parts[depth] for path in inner}))
        raise DataError(f"{request.root}: no {request.split} split; found {found}, looked for {looked_for}")
    apart = f", {other} apart" if {"val", "test"} <= there else ""
    sides = [{name_of(p) for p in inner if labelled and split_by_path[p] == side} for side in ("train", tested)]
    named = " and ".join(sorted(filter(None, there), reverse=True))
    odd = [
        *noted([path for path in files.videos if path not in inner], "video", f" outside {named}, in no split"),
        *splits.nested_splits(split_by_path, depth),
        *splits.leaked_links(files.same, split_by_path, tested),
        *_unlabelled(path for path, parts in inner.items() if any(inner.values()) and len(parts) != 1),
        *splits.one_sided_classes(*sides),
    ]
    layout = f"split folders {'with class folders' if labelled else 'without labels'}{apart}"
    classes = [names[name] for name in label_of]
    return _listed(request, files, videos, classes, layout=layout, notes=[*notes, *odd])


def refuse_copies(files: Files) -> None:
    """Raise DataError where a folder has the same videos as one beside it, by names, and is a scaled copy of it.

    That is one by its name, or one that `fima prepare` wrote. The two would be classes, or all videos be there twice.
    Where yet another one beside them has such names, as where videos are numbered, the folders are classes.
    """
    folders = {path.parent for path in files.videos}
    folders = folders.union(*(folder.parents for folder in folders)) - {Path()}
    beside: dict[Path, set[Path]] = defaultdict(set)
    for folder in folders:
        beside[folder.parent].add(folder)
    prepared = {path.parent for path in files.others if path.name == PREPARE_RECORD} & folders
    wholes = {copy: {copy.with_name(match[1])} for copy in folders if (match := SCALED.fullmatch(copy.name))}
    wholes |= {copy: wholes.get(copy, set()) | (beside[copy.parent] - prepared) for copy in prepared}
    copies = {copy for copy in wholes if wholes[copy] & folders}
    names: dict[Path, set[str]] = {each: set() for copy in copies for each in beside[copy.parent]}
    for path in files.videos if names else ():
        for folder in names.keys() & set(path.parents):
            names[folder].add(path.relative_to(folder).with_suffix("").as_posix())
    for copy in sorted(copies):
        own = names[copy]
        for whole in sorted(wholes[copy] & folders):
            others = (names[each] for each in beside[copy.parent] - copies - {whole})
            same = own & names[whole]
            if 2 * len(same) > len(own) and not any(2 * len(own & each) > min(len(own), len(each)) for each in others):
                what = f"{whole}/ and {copy}/ hold the same videos, such as {min(same)}"
                raise DataError(f"{files.root}: {what}; give one of the two folders alone, or move one of them away")


def _unlabelled(odd: Iterable[Path]) -> list[str]:
    """Say why no video has a label: these do not lie in a class folder."""
    return noted([*odd], "video", " not in <class>/<video>", ": no video gets a label")


def _unread_tables(root: Path) -> list[str]:
    """Say that a file is no table of videos although it is called so."""
    path = root / "videos.csv"
    columns = read_columns(path) if path.is_file() else ["path"]
    if "path" in columns:
        return []
    found = ", ".join(columns) or "none"
    return [f"{path}: has no column path (found {found}), so the folder is read as if it were not there"]


def _unread_lists(files: Files) -> list[str]:
    """Say that list files of a data set lie where they are not looked for."""
    found = [path for path in files.others if KNOWN_LISTS.fullmatch(path.name)]
    place = files.root / found[0].parent if found else files.root
    advice = f": to keep test videos out of training, give its data set alone, or --data.annotations {place}"
    return noted(found, "official list", " not read", advice)


def _class_folders(request: Request, files: Files, classes: list[str], notes: list[str]) -> VideoList:
    root, split = request.root, request.split
    label_of = {name: label for label, name in enumerate(classes)}
    sizes = Counter[str]()
    split_by_path: dict[Path, str | None] = {}
    for path in files.videos:
        sizes[path.parts[0]] += 1
        split_by_path[path] = "train" if sizes[path.parts[0]] % HOLD_OUT_EVERY else "test"
    videos = [
        Video(root / path, label_of[path.parts[0]]) for path, side in split_by_path.items() if split in ("all", side)
    ]
    if not videos:
        raise DataError(
            f"{root}: no class has {HOLD_OUT_EVERY} videos, so none is held out for the test split; "
            "put the test videos into test/<class>/ and the others into train/<class>/"
        )
    notes = [*notes, *splits.leaked_links(files.same, split_by_path, "test")]
    if split == "test":
        tested = [name for name in classes if sizes[name] >= HOLD_OUT_EVERY]
        notes = [*notes, *splits.one_sided_classes(classes, tested)]
    return _listed(request, files, videos, classes, layout=f"class folders, {HELD_OUT}", notes=notes)


LAYOUT = Layout(
    name="folder",
    title="a plain folder of videos",
    looked_for="a folder of videos, which needs no annotations",
    recognise=lambda root, annotations: root.is_dir() and annotations is None,
    list_videos=list_folder,
)
