"""Parts of a list of videos: few to train on, and some held out of the training, by class or by group."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fima.data.datasets import VideoList
from fima.errors import DataError


def low_shot(videos: VideoList, count: int, seed: int) -> VideoList:
    """Draw `count` videos as evenly from the classes as possible; they stay in the order of the list.

    Every class gives one video before any gives a second, and so on; where a round cannot serve every class, chance
    decides which classes it serves. A smaller count gives a part of what a larger one gives. A list without labels
    counts as one class. Raises DataError where the list has fewer videos than that, or `count` is below 1.
    """
    if not 1 <= count <= len(videos.videos):
        raise DataError(f"{videos.root}: {count} videos asked for; the {videos.split} list has {len(videos.videos)}")
    generator = np.random.default_rng(seed)
    classes = _shuffled_classes(videos, generator)
    rounds = max(len(places) for places in classes)
    order = [
        classes[label][turn]
        for turn in range(rounds)
        for label in generator.permutation(len(classes))
        if turn < len(classes[label])
    ]
    return _part(videos, order[:count], f"{count} of {len(videos.videos)} videos, drawn evenly from the classes")


def per_class(videos: VideoList, count: int, seed: int) -> VideoList:
    """Draw `count` videos of each class, and all of a class that has fewer; they stay in the order of the list.

    A smaller count gives a part of what a larger one gives.
    """
    classes = _shuffled_classes(videos, np.random.default_rng(seed))
    drawn = [place for places in classes for place in places[:count]]
    return _part(videos, drawn, f"at most {count} videos of each class")


def hold_out(
    videos: VideoList, share: float, seed: int, groups: Mapping[Path, str] | None = None
) -> tuple[VideoList, VideoList]:
    """Split a list in two: the videos that stay and those held out, both in the order of the list.

    With `groups` by path, such as the persons, whole groups are held out, as many as come nearest to that share of the
    videos, and the smallest where all are larger, which a note says; a video without one is a group of its own.
    Otherwise, or where each group has all of a class, it goes class by class: one of n videos gives round(share · n) of
    them, at least one, to the second list, and keeps at least one; a class of a single video gives none. A list without
    labels counts as one class. Raises DataError where no class has two videos, or `share` is not in (0, 1).
    """
    if not 0 < share < 1:
        raise DataError(f"{videos.root}: cannot hold out a share of {share}; choose one above 0 and below 1")
    held = _grouped_places(videos, share, seed, groups) if groups else []
    how = "in whole groups " if held else ""
    for places in () if held else _shuffled_classes(videos, np.random.default_rng(seed)):
        held += places[: min(len(places) - 1, max(1, round(share * len(places))))]
    if not held:
        raise DataError(f"{videos.root}: no class has two videos, so none can be held out")
    kept = set(range(len(videos.videos))).difference(held)
    if how and len(held) > 2 * share * len(videos.videos):
        note = f"{videos.root}: {len(held)} of {len(videos.videos)} videos are held out: no group is smaller"
        videos = replace(videos, notes=[*videos.notes, note])
    return (
        _part(videos, kept, f"without {len(held)} {how}held out"),
        _part(videos, held, f"{len(held)} {how}held out of {len(videos.videos)}"),
    )


def _grouped_places(videos: VideoList, share: float, seed: int, groups: Mapping[Path, str]) -> list[int]:
    """Places of about a share of the videos, in whole groups in random order; every class keeps a video."""
    members: dict[str, list[int]] = {}
    for place, video in enumerate(videos.videos):
        members.setdefault(groups.get(video.path) or str(video.path), []).append(place)
    left = Counter(video.label for video in videos.videos)
    labels = {name: Counter(videos.videos[place].label for place in places) for name, places in members.items()}
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(members))]
    held: list[int] = []

    def leaves_all(name: str) -> bool:
        return all(count < left[label] for label, count in labels[name].items())

    for name in order:
        fits = len(held) + len(members[name]) / 2 <= share * len(videos.videos)
        if fits and leaves_all(name):
            held += members[name]
            left -= labels[name]
    return held or min((members[name] for name in order if leaves_all(name)), key=len, default=[])


def _shuffled_classes(videos: VideoList, generator: np.random.Generator) -> list[list[int]]:
    """Places in the list by class, classes by their number, each class in random order."""
    places: dict[int, list[int]] = {}
    for place, video in enumerate(videos.videos):
        places.setdefault(-1 if video.label is None else video.label, []).append(place)
    return [[int(place) for place in generator.permutation(places[label])] for label in sorted(places)]


def _part(videos: VideoList, places: Iterable[int], how: str) -> VideoList:
    return replace(videos, videos=[videos.videos[place] for place in sorted(places)], layout=f"{videos.layout}; {how}")
