"""A folder without list files: split folders, class folders, or videos at any depth."""

from collections.abc import Collection, Sequence
from pathlib import Path

from fima.config import Dataset
from fima.data.layouts.files import Files, find_files
from fima.data.layouts.video_list import Layout, Request, Split, Video, VideoList
from fima.errors import DataError

TRAIN_FOLDERS = ("train", "train_256", "training")
TEST_FOLDERS = ("test", "test_256", "testing", "val", "val_256", "validation")
HOLD_OUT_EVERY = 5


def list_folder(request: Request) -> VideoList:
    """List a folder by what lies in it.

    - Split folders: `train/` and `val/` or `test/`, each with one folder a class.
    - Class folders: every video is in `<class>/<video>`, of at least two classes. Every fifth video of each class in
      sorted order is held out as the test split.
    - Anything else, at any depth, is a folder without labels: `train` and `all` are all its videos. That includes
      videos both at the root and in folders, and a single class folder.

    Raises:
        DataError: no video, or not the split that was asked for.
    """
    root, split = request.root, request.split
    files = find_files(root)
    tops = {path.parts[0] for path in files.videos}
    if all(len(path.parts) > 1 for path in files.videos) and tops <= {*TRAIN_FOLDERS, *TEST_FOLDERS}:
        wanted = {"train": TRAIN_FOLDERS, "test": TEST_FOLDERS, "all": (*TRAIN_FOLDERS, *TEST_FOLDERS)}[split]
        return split_folders(root, split, files, wanted, dataset="folder")
    classes = _class_names(files.videos)
    if classes:
        return _class_folders(root, split, files, classes)
    if split == "test":
        raise DataError(f"{root}: has no labels, so no test split; use class folders, or the split 'all'")
    videos = [Video(root / path, None) for path in files.videos]
    return VideoList(
        videos=videos, classes=[], root=root, split=split, layout="videos without labels", missing=files.missing
    )


def split_folders(root: Path, split: Split, files: Files, wanted: Collection[str], *, dataset: Dataset) -> VideoList:
    """List videos in `<split>/<class>/<video>`; without labels where they do not all lie so.

    Spaces and underscores in the names of Kinetics' classes are the same.

    Args:
        root: the folder.
        split: the split, for the record.
        files: what lies below the folder.
        wanted: folders that make up the split.
        dataset: the data set that it is read as.

    Raises:
        DataError: no video in the wanted folders.
    """

    def name_of(path: Path) -> str:
        return path.parts[1].replace("_", " ") if dataset == "k400" else path.parts[1]

    names = {name_of(path): path.parts[1] for path in reversed(files.videos) if len(path.parts) > 1}
    labelled = len(names) > 1 and all(len(path.parts) == 3 for path in files.videos)
    label_of = {name: label for label, name in enumerate(sorted(names, key=names.__getitem__))}
    videos = [
        Video(root / path, label_of[name_of(path)] if labelled else None)
        for path in files.videos
        if path.parts[0] in wanted
    ]
    if not videos:
        found = ", ".join(sorted({path.parts[0] for path in files.videos})) or "nothing"
        raise DataError(f"{root}: no {split} split; found {found}, looked for {', '.join(wanted)}")
    return VideoList(
        videos=videos,
        classes=[names[name] for name in label_of] if labelled else [],
        root=root,
        split=split,
        layout="split folders with class folders" if labelled else "split folders without labels",
        dataset=dataset,
        missing=files.missing,
    )


def _class_names(videos: Sequence[Path]) -> list[str]:
    """Class names where every video is in `<class>/<video>` and there are at least two classes, else nothing."""
    names = sorted({path.parts[0] for path in videos})
    return names if len(names) > 1 and all(len(path.parts) == 2 for path in videos) else []


def _class_folders(root: Path, split: Split, files: Files, classes: list[str]) -> VideoList:
    paths_of: dict[str, list[Path]] = {name: [] for name in classes}
    for path in files.videos:
        paths_of[path.parts[0]].append(path)
    videos = [
        Video(root / path, label)
        for label, paths in enumerate(paths_of.values())
        for position, path in enumerate(paths, start=1)
        if split == "all" or (position % HOLD_OUT_EVERY == 0) == (split == "test")
    ]
    if not videos:
        raise DataError(
            f"{root}: no class has {HOLD_OUT_EVERY} videos, so none is held out for the test split; "
            "put the test videos into test/<class>/ and the others into train/<class>/"
        )
    layout = f"class folders, every {HOLD_OUT_EVERY}th video of a class held out for testing"
    return VideoList(videos=videos, classes=classes, root=root, split=split, layout=layout, missing=files.missing)


def _is_folder(root: Path, annotations: Path | None) -> bool:
    return root.is_dir() and annotations is None


LAYOUT = Layout(
    name="folder",
    title="a plain folder of videos",
    looked_for="a folder of videos, which needs no annotations",
    recognise=_is_folder,
    accepts=_is_folder,
    list_videos=list_folder,
)
