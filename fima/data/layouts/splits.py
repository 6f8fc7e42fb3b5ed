"""The splits of a data set in the spellings that people use for folders and columns."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fima.data.layouts.video_list import counted, noted

SPELLINGS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in SPELLINGS.items() for word in words}
AROUND = r"(?:set|split|data|videos?|clips?)"
NAME = re.compile(rf"(?:{AROUND}[\W_]+)?([a-z]+?)(?:[\W_]*{AROUND})?[\W_]*\d*")
"""A word alone, or as in `train_256`, `Training set`, `videos_train`, `val2017`."""
IN_FILE_NAME = re.compile(r"(?<![a-z])(train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?)(?![a-z])")
MISSPELT = ("train", "training", "valid", "validation", "test", "testing")
LIKENESS = 0.9
SHORTEST_HINT = 3


def split_of(name: str) -> str | None:
    """Return `train`, `val` or `test` for a name that means one of them, in any case; None for others."""
    match = NAME.fullmatch(name.strip().casefold())
    return SPLIT_OF.get(match[1]) if match else None


def split_depth(videos: Sequence[Path]) -> int | None:
    """Return how deep below the root the folders lie that are splits; None where there are none.

    At the top, every folder may be the same split, unless there are several below. Below, and next to other folders,
    there have to be several.
    """
    same = None
    for depth in range(max((len(path.parts) for path in videos), default=1) - 1):
        names = {path.parts[depth] if len(path.parts) > depth + 1 else None for path in videos}
        splits = {None if name is None else split_of(name) for name in names}
        if len(splits - {None}) > 1 and ("train" in splits or None not in splits):
            return depth
        if depth == 0 and None not in splits:
            same = depth
    return same


def unread_splits(videos: Iterable[Path]) -> list[str]:
    """Say which folders or files look like splits, of a folder that is read without any."""
    videos = list(videos)
    in_names = {path: found for path in videos if (found := IN_FILE_NAME.search(path.stem.casefold()))}
    if len({split_of(found[1]) for found in in_names.values()}) > 1:
        advice = "put the videos into train/ and test/ to keep test videos out of training"
        unread = f": names of files are not read as splits; {advice}"
        return noted(sorted(in_names), "video", " named like a split", unread)
    folders = {name for path in videos for name in path.parts[:-1]}
    near = sorted(name for name in folders if split_of(name) or looks_like_split(name))
    if not near:
        return []
    named = ", ".join(near[:3]) + (", …" if len(near) > 3 else "")
    return [
        f"{counted(len(near), 'folder')} named like a split but not read as one ({named}): their videos count as all "
        "others do; name the folders train/ and test/ to keep test videos out of training"
    ]


def leaked_links(same: Iterable[Sequence[Path]], split_by_path: Mapping[Path, str | None], tested: str) -> list[str]:
    """Say which files, given the names of each, are in training and in the test part by different names: links."""
    leaked = [names for names in same if {"train", tested} <= {split_by_path.get(name) for name in names}]
    other = f", which is {leaked[0][-1]}; keep one of each" if leaked else ""
    return noted([names[0] for names in leaked], "video", " in training and in the test part by links", other)


def nested_splits(split_by_path: Mapping[Path, str | None], depth: int) -> list[str]:
    """Say which videos of a split lie in folders that are named like another one, below its own at `depth`."""
    nested = [
        path
        for path, split in split_by_path.items()
        if split and any(split_of(part) not in (None, split) for part in path.parts[depth + 1 : -1])
    ]
    advice = "; put the folders of the splits next to each other"
    read = f": read as {split_by_path[nested[0]]}{advice}" if nested else ""
    return noted(nested, "video", " in a folder named like a split inside another one", read)


def one_sided_classes(train: Iterable[str], test: Iterable[str]) -> list[str]:
    """Say which classes only one of two splits has."""
    trained, tested = set(train), set(test)
    if not (trained and tested):
        return []
    only = {"training": sorted(trained - tested), "test": sorted(tested - trained)}
    return [
        f"only in the {side} split: {', '.join(names[:3])}{', …' if len(names) > 3 else ''} "
        f"({len(names)} of {len(trained | tested)} classes)"
        for side, names in only.items()
        if names
    ]


def looks_like_split(name: str) -> bool:
    """Whether a name has a word for a split in it, or a misspelt one."""
    words = [word for word in re.findall("[a-z]+", name.casefold()) if len(word) >= SHORTEST_HINT]
    return any(
        word in SPLIT_OF
        or any(sorted(word) == sorted(known) for known in MISSPELT)
        or difflib.get_close_matches(word, MISSPELT, n=1, cutoff=LIKENESS)
        for word in words
    )
